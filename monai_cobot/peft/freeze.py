"""SAM as it is: the zero-shot baseline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from monai_cobot.networks._segment_anything import Sam

from .method import AdaptedModule, Method, register


@register("freeze")
@dataclass(frozen=True)
class Freeze(Method):
    """Nothing is trained, the mask decoder neither ("freeze" in SAM-COBOT's Table 4). 0 parameters."""

    def replacements(self, sam: Sam) -> Iterator[tuple[str, AdaptedModule]]:
        """Nothing is replaced."""
        yield from ()
