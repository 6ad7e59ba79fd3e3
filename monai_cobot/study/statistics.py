"""Whether a method is better than its base by more than chance: a paired test over patients."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np
from scipy.stats import bootstrap, wilcoxon

from monai_cobot.study.records import Record

__all__ = ["PairedTest", "compare_records", "holm", "paired_test", "patient_scores"]


@dataclass(frozen=True)
class PairedTest:
    """A comparison of two methods on the same patients.

    Attributes:
        patients: how many.
        gain: mean over patients of the DSC's difference, in [-1, 1].
        interval: in which the gain lies with a confidence of 95 percent, if other patients had been drawn; None for a
            single patient.
        better, worse: patients with a higher and a lower DSC.
        p: of the two-sided test.
        p_adjusted: the same, corrected for all tests of its table.
        seed_gains: the gain of each seed for itself: how much of it is training's chance.
    """

    patients: int
    gain: float
    interval: tuple[float, float] | None
    better: int
    worse: int
    p: float
    p_adjusted: float = 1.0
    seed_gains: tuple[float, ...] = ()


def compare_records(base: Sequence[Record], other: Sequence[Record], patients: Mapping[str, str]) -> PairedTest:
    """A method against its base, on what all of their runs have a DSC of.

    A label that is neither in a case nor found there has none (``head="classes"``); found in one run alone, it would
    count for that run only.

    Args:
        base, other: the records of the seeds, in the same order.
        patients: case -> patient.

    Raises:
        ValueError: there is nothing that all have a DSC of.
    """
    shared = set.intersection(*({(case, label) for case, label, _ in record.scores} for record in (*base, *other)))

    def scores(records: Sequence[Record]) -> dict[str, float]:
        return patient_scores(records, patients, shared)

    test = paired_test(scores(base), scores(other))
    pairs = [(scores([before]), scores([after])) for before, after in zip(base, other, strict=True)]
    gains = [fmean(after[patient] - before[patient] for patient in before) for before, after in pairs]
    return replace(test, seed_gains=tuple(gains))


def patient_scores(
    records: Sequence[Record], patients: Mapping[str, str], counted: Collection[tuple[str, str]] | None = None
) -> dict[str, float]:
    """patient -> the mean of its DSC over labels, cases and seeds.

    Seeds of one patient are no further patients: they are averaged before anything is tested.

    Args:
        records: of the seeds.
        patients: case -> patient.
        counted: (case, label) that count; None for all.
    """
    found: dict[str, list[float]] = {}
    for record in records:
        for case, label, dice in record.scores:
            if counted is None or (case, label) in counted:
                found.setdefault(patients[case], []).append(dice)
    return {patient: fmean(dice) for patient, dice in found.items()}


def paired_test(base: Mapping[str, float], other: Mapping[str, float]) -> PairedTest:
    """Wilcoxon's signed-rank test (Biometrics Bulletin 1945) of the differences between two methods, by patient.

    It asks of the differences no normal distribution, which those of a DSC do not have: a few patients lie far off, and
    weigh in a test of ranks no more than others. So its p may be small where the mean says little, and the reverse. It
    is exact for few patients; with fewer than six its p cannot fall below 0.05.

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
        interval=_interval(differences),
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


def _interval(differences: Sequence[float]) -> tuple[float, float] | None:
    """Of the mean, by drawing patients anew (percentile bootstrap; Efron, The Annals of Statistics 1979)."""
    if len(differences) < 2:
        return None
    found = bootstrap(
        (differences,),
        np.mean,
        confidence_level=0.95,
        method="percentile",
        random_state=np.random.default_rng(0),  # the same table of the same runs
    ).confidence_interval
    return float(found.low), float(found.high)
