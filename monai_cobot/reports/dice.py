"""The Dice similarity coefficient (DSC) of cases and labels, on the scale 0 to 1."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import fmean, stdev

import numpy as np


def dice_coefficient(intersection: float, prediction: float, truth: float) -> float:
    """The Dice similarity coefficient, 2 |P and T| / (|P| + |T|) (Dice, Ecology 1945), from numbers of voxels.

    Sum the numbers over a case's slices first for the DSC of the case in 3D.

    Args:
        intersection: voxels in both the prediction and the truth.
        prediction: voxels in the prediction.
        truth: voxels in the truth.

    Returns:
        The DSC in [0, 1]; 1.0 where prediction and truth are both empty, since they agree.

    Raises:
        ValueError: if a number is negative or not finite, or the intersection is larger than a mask.
    """
    if not (0 <= intersection <= min(prediction, truth) and math.isfinite(prediction + truth)):
        raise ValueError(
            f"numbers of voxels must be finite, with 0 <= intersection <= prediction and truth; "
            f"got intersection {intersection}, prediction {prediction}, truth {truth}"
        )
    if prediction + truth == 0:
        return 1.0
    return 2.0 * intersection / (prediction + truth)


def mask_dice(prediction: np.ndarray, truth: np.ndarray) -> float:
    """The DSC of two masks of bool and of the same shape, in [0, 1]; 1.0 where both are empty."""
    return dice_coefficient(*(int(np.count_nonzero(mask)) for mask in (prediction & truth, prediction, truth)))


@dataclass(frozen=True)
class LabelSummary:
    """One label's DSC over its cases."""

    label: str
    cases: int
    """How many cases have a score."""
    mean: float
    """Mean DSC over the cases, in [0, 1]."""
    standard_deviation: float
    """Sample standard deviation over the cases (divided by n - 1); NaN with a single case."""


@dataclass
class CaseScores:
    """The DSC of every case and label, in the order in which they were added.

    Example:
        >>> scores = CaseScores()
        >>> scores.add("patient_1", "liver", 0.5)
        >>> scores.add("patient_2", "liver", 1.0)
        >>> scores.mean()
        0.75
    """

    scores: dict[tuple[str, str], float] = field(default_factory=dict)
    """(case, label) to DSC in [0, 1]."""

    def add(self, case: str, label: str, dice: float) -> None:
        """Keep the DSC of one case and label.

        Raises:
            ValueError: if the DSC is not in [0, 1], or this case and label have one already.
        """
        if not 0 <= dice <= 1:
            raise ValueError(f"the DSC of case {case!r}, label {label!r} must be in [0, 1], got {dice}")
        if (case, label) in self.scores:
            raise ValueError(f"case {case!r}, label {label!r} has a DSC already; a case is scored once")
        self.scores[case, label] = dice

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[tuple[str, str, float]]:
        """(case, label, DSC) of each score."""
        return ((case, label, dice) for (case, label), dice in self.scores.items())

    def labels(self) -> list[str]:
        """The labels' names."""
        return list(dict.fromkeys(label for _, label in self.scores))

    def summary(self) -> list[LabelSummary]:
        """Mean and standard deviation over the cases, label by label."""
        by_label = {label: [dice for _, of, dice in self if of == label] for label in self.labels()}
        return [
            LabelSummary(label, len(dice), fmean(dice), stdev(dice) if len(dice) > 1 else math.nan)
            for label, dice in by_label.items()
        ]

    def mean_by_label(self) -> dict[str, float]:
        """Each label's mean DSC over its cases: a history's ``dice`` (see :func:`plot_training_curves`)."""
        return {summary.label: summary.mean for summary in self.summary()}

    def mean(self) -> float:
        """The mean over each label's cases, then over labels, so that a label in few cases weighs as much as another.

        Raises:
            ValueError: if there is no score.
        """
        if not self.scores:
            raise ValueError("no case has been scored, so there is no mean DSC; was the validation set empty?")
        return fmean(self.mean_by_label().values())
