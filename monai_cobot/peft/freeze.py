"""SAM as it is: the zero-shot baseline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from .method import AdaptedModule, Method, register


@register("freeze")
@dataclass(frozen=True)
class Freeze(Method):
    """Nothing is trained, the mask decoder neither ("freeze" in SAM-COBOT's Table 4). 0 parameters."""

    def replacements(self, sam: nn.Module) -> Iterator[tuple[str, AdaptedModule]]:
        """Nothing is replaced."""
        yield from ()
