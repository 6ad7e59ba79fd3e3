"""SAM as it is: the zero-shot baseline."""

from __future__ import annotations

from dataclasses import dataclass

from .method import Method, register


@register("freeze")
@dataclass(frozen=True)
class Freeze(Method):
    """Nothing is trained, the mask decoder neither ("freeze" in SAM-COBOT's Table 4). 0 parameters."""
