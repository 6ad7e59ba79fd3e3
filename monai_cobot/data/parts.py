"""Which cases of a data set to work on."""

from __future__ import annotations

from monai_cobot.data.cases import Case
from monai_cobot.data.opening import CaseSplit

__all__ = ["cases_of"]


def cases_of(split: CaseSplit, part: str) -> list[Case]:
    """The cases of one part of a data set, or of all of it.

    Args:
        split: the data set.
        part: "training", "validation" or "all".

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
    return parts[part]
