"""Whether a method is better than its base by more than chance: a paired test over patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from scipy.stats import wilcoxon

from monai_cobot.study.records import Record

__all__ = ["PairedTest", "holm", "paired_test", "patient_scores"]


@dataclass(frozen=True)
class PairedTest:
    """A comparison of two methods on the same patients.

    Attributes:
        patients: how many.
        gain: mean over patients of the DSC's difference, in [-1, 1].
        better, worse: patients with a higher and a lower DSC.
        p: of the two-sided test.
        p_adjusted: the same, corrected for all tests of the study.
    """

    patients: int
    gain: float
    better: int
    worse: int
    p: float
    p_adjusted: float = 1.0


def patient_scores(records: Sequence[Record], patients: Mapping[str, str]) -> dict[str, float]:
    """patient -> the mean of its DSC over labels, cases and seeds.

    Seeds of one patient are no further patients: they are averaged before anything is tested.

    Args:
        records: of the seeds.
        patients: case -> patient.
    """
    found: dict[str, list[float]] = {}
    for record in records:
        for case, _, dice in record.scores:
            found.setdefault(patients[case], []).append(dice)
    return {patient: fmean(dice) for patient, dice in found.items()}


def paired_test(base: Mapping[str, float], other: Mapping[str, float]) -> PairedTest:
    """Wilcoxon's signed-rank test (Biometrics Bulletin 1945) of the differences between two methods, by patient.

    It asks of the differences no normal distribution, which those of a DSC do not have: they are bounded and skewed,
    and a few patients lie far off. It is exact for few patients; with fewer than six its p cannot fall below 0.05.

    Args:
        base: patient -> DSC.
        other: of the same patients.

    Raises:
        ValueError: they are not the same patients.
    """
    if base.keys() != other.keys() or not base:
        raise ValueError(f"expected the same patients, got {len(base)} and {len(other)}")
    differences = [other[patient] - base[patient] for patient in sorted(base)]
    same = all(difference == 0 for difference in differences)
    return PairedTest(
        patients=len(differences),
        gain=fmean(differences),
        better=sum(difference > 0 for difference in differences),
        worse=sum(difference < 0 for difference in differences),
        p=1.0 if same else float(wilcoxon(differences).pvalue),
    )


def holm(tests: Sequence[PairedTest]) -> list[PairedTest]:
    """The tests with p corrected for their number (Holm, Scandinavian Journal of Statistics 1979), in the same order.

    Of all corrected p below 0.05, the chance that even one is by chance is below 0.05.
    """
    order = sorted(range(len(tests)), key=lambda index: tests[index].p)
    adjusted = [1.0] * len(tests)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(tests) - rank) * tests[index].p))
        adjusted[index] = largest
    return [replace(test, p_adjusted=p) for test, p in zip(tests, adjusted, strict=True)]
