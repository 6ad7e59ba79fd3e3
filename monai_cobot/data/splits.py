"""Training and validation, divided by patient and never by slice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from monai_cobot.data.cases import Case
from monai_cobot.files import read_json

__all__ = ["draw_cases", "split_by_file", "split_by_fraction", "split_by_own", "take_cases"]

Split = tuple[list[Case], list[Case]]


def split_by_own(cases: Sequence[Case]) -> Split:
    """The split that the data set itself has.

    Raises:
        ValueError: where a case has none, a patient is on both sides, or a side is empty.
    """
    without = [case.name for case in cases if case.split not in ("training", "validation")]
    if without:
        raise ValueError(f"{len(without)} cases belong to neither training nor validation, such as {without[0]}.")
    training = [case for case in cases if case.split == "training"]
    validation = [case for case in cases if case.split == "validation"]
    return _checked(training, validation, "the data set's own split")


def split_by_fraction(cases: Sequence[Case], validation_fraction: float, seed: int) -> Split:
    """A random share of the patients, at least one, for validation; the same for the same seed and patients.

    Raises:
        ValueError: for a fraction outside (0, 1), or fewer than two patients.
    """
    if not 0 < validation_fraction < 1:
        raise ValueError(f"validation_fraction is {validation_fraction}; it must lie between 0 and 1.")
    patients = sorted({case.patient for case in cases})
    if len(patients) < 2:
        raise ValueError(f"training and validation need at least two patients, but there is only {patients}.")
    count = min(max(1, round(validation_fraction * len(patients))), len(patients) - 1)
    drawn = set(np.random.default_rng(seed).permutation(patients)[:count].tolist())
    training = [case for case in cases if case.patient not in drawn]
    validation = [case for case in cases if case.patient in drawn]
    return _checked(training, validation, f"the split by fraction {validation_fraction}")


def split_by_file(cases: Sequence[Case], path: str | Path) -> Split:
    """The split in a JSON file: ``{"training": [names], "validation": [names]}`` of cases or patients.

    Cases that the file does not name are left out.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: for a file that is not such JSON, unknown names, a patient on both sides, or an empty side.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file; it should say which cases are for validation.")
    content = read_json(path)
    try:
        wanted = {part: [str(name) for name in content[part]] for part in ("training", "validation")}
    except (KeyError, TypeError) as error:
        raise ValueError(f'{path}: {{"training": [names], "validation": [names]}} is expected ({error!r}).') from error
    known = {name for case in cases for name in (case.name, case.patient)}
    unknown = [name for names in wanted.values() for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"{path}: {len(unknown)} names are neither a case nor a patient of the data set, such as {unknown[0]!r}; "
            f"there are {', '.join(sorted(known)[:3])} and so on."
        )
    training, validation = (
        [case for case in cases if case.name in wanted[part] or case.patient in wanted[part]]
        for part in ("training", "validation")
    )
    return _checked(training, validation, str(path))


def take_cases(split: Split, max_cases: int, seed: int) -> Split:
    """At most ``max_cases`` in all, drawn at random in the proportion of the two sides, at least one of each.

    Raises:
        ValueError: for fewer than two.
    """
    if max_cases < 2:
        raise ValueError(f"max_cases is {max_cases}; training and validation need one case each.")
    total = sum(len(side) for side in split)
    if total <= max_cases:
        return split
    for_validation = min(max(1, round(max_cases * len(split[1]) / total)), max_cases - 1)
    random = np.random.default_rng(seed)
    training, validation = (
        draw_cases(side, count, random)
        for side, count in zip(split, (max_cases - for_validation, for_validation), strict=True)
    )
    return training, validation


def draw_cases(cases: Sequence[Case], count: int, seed: int | np.random.Generator) -> list[Case]:
    """At most ``count`` cases, drawn at random, in their order. With one seed, fewer are among those that more are."""
    drawn = np.random.default_rng(seed).permutation(len(cases))[:count]
    return [cases[number] for number in sorted(drawn)]


def _checked(training: list[Case], validation: list[Case], source: str) -> Split:
    for part, side in (("training", training), ("validation", validation)):
        if not side:
            raise ValueError(f"{source}: no case is left for {part}.")
    both = sorted({case.patient for case in training} & {case.patient for case in validation})
    if both:
        raise ValueError(
            f"{source}: {len(both)} patients are on both sides, such as {both[0]}; a patient belongs to "
            "training or to validation."
        )
    return training, validation
