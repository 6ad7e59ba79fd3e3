"""Which cases of a data set to work on."""

from __future__ import annotations

from monai_cobot.data.cases import Case
from monai_cobot.data.opening import CaseSplit

__all__ = ["cases_of"]


def cases_of(split: CaseSplit, part: str, rank: int = 0, world_size: int = 1) -> list[Case]:
    """The cases of one part of a data set, or of all of it, or one process's share of them.

    Args:
        split: the data set.
        part: "training", "validation" or "all".
        rank, world_size: of so many processes this one gets every ``world_size``-th case, from the ``rank``-th on.

    Raises:
        ValueError: for another part.
    """
    parts = {
        "training": split.training,
        "validation": split.validation,
        "all": [*split.training, *split.validation],
    }
    if part not in parts:
        raise ValueError(f"unknown part {part!r} of the data set; choose one of {', '.join(parts)}.")
    return parts[part][rank::world_size]
