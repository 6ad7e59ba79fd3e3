"""Which patients a study trains on, chooses on and tests on: divided once, the same for every method and seed.

The test patients are those that the data set keeps for validation, or a share drawn by ``split_seed``. Of the others a
share is kept for the choice of the learning rate, which a method is trained for without them. The final runs train on
all patients but the test's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_cobot.data import Case, open_dataset, split_by_fraction
from monai_cobot.files import read_json, write_atomically
from monai_cobot.study.description import OF_DATASETS, Options

__all__ = ["Patients", "divide_patients", "read_patients"]

_OPENING = ("label", "preset", "max_cases", "training_cases", "validation_fraction")


@dataclass(frozen=True)
class Patients:
    """The division of a data set.

    Attributes:
        test: the file that divides into training and test, for the bundle's option ``split``.
        choice: the file that divides the training patients once more; None where nothing is chosen.
    """

    test: Path
    choice: Path | None


def divide_patients(options: Options, folder: Path, with_choice: bool) -> Patients:
    """Divide the patients of a data set and write the files, where that was not done.

    Args:
        options: of the runs on it.
        folder: for the files.
        with_choice: whether some training patients are kept for choosing.

    Raises:
        OSError: the data set or a file cannot be read or written.
        ValueError: the data set cannot be used or divided, or is no longer what it was when the study began.
    """
    name = options["dataset"]
    opening = {key: options[key] for key in _OPENING if key in options}
    seed = options.get("split_seed", 0)
    split = open_dataset(name, options.get("dataset_dir", Path("data") / name), seed=seed, **opening)
    test = _written(folder / "test.json", split.training, split.validation)
    if not with_choice:
        return Patients(test, None)
    fraction = options.get("validation_fraction", 0.2)
    return Patients(test, _written(folder / "choice.json", *split_by_fraction(split.training, fraction, seed)))


def run_options(options: Options) -> Options:
    """What is left for the runs once the patients are divided."""
    return {name: value for name, value in options.items() if name not in OF_DATASETS}


def read_patients(path: Path) -> dict[str, str]:
    """case -> patient of a division."""
    patients: dict[str, str] = read_json(path)["patients"]
    return patients


def _written(path: Path, training: list[Case], held_out: list[Case]) -> Path:
    content: dict[str, Any] = {
        "training": [case.name for case in training],
        "validation": [case.name for case in held_out],
        "patients": {case.name: case.patient for case in (*training, *held_out)},
    }
    if path.exists():
        if read_json(path) != content:
            raise ValueError(
                f"{path}: the patients of this data set are others than when the study began, or divided otherwise. "
                "Put back what was changed, or begin anew in another output folder."
            )
        return path
    return write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())
