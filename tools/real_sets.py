"""The real scans that results are reported on, each from its folder (docs/data.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from monai_cobot.data import Case, CaseError, LoadedCase, MaskFile, load_case, open_dataset


@dataclass(frozen=True)
class RealSet:
    """A set of scans.

    Attributes:
        name: in tables.
        folder: below the data folder.
        cases: from its folder to the cases that are asked for: those that no training sees, where there is one.
        labels: name -> value.
        preset: intensity preset.
        min_foreground: slices with fewer pixels of a label are left out.
    """

    name: str
    folder: str
    cases: Callable[[Path], list[Case]]
    labels: dict[str, int]
    preset: str
    min_foreground: int

    def load(self, data: Path) -> Iterator[LoadedCase]:
        """Its cases below the data folder, with a progress bar; one that cannot be used is said and left out."""
        for case in tqdm(self.cases(data / self.folder), desc=self.name, unit="case"):
            try:
                loaded = load_case(case, list(self.labels.values()))
            except CaseError as error:
                print(f"left out: {error}")
                continue
            yield loaded


def _busi(kind: str) -> Callable[[Path], list[Case]]:
    def cases(folder: Path) -> list[Case]:
        split = open_dataset("brast", folder)
        return [case for case in (*split.training, *split.validation) if case.image.parent.name == kind]

    return cases


def _sarcoma(modality: str) -> Callable[[Path], list[Case]]:
    def cases(folder: Path) -> list[Case]:
        return [
            Case(patient.name, patient / f"{modality}_image.nii.gz", (MaskFile(mask, 1),), patient.name)
            for patient in sorted(folder.iterdir())
            if (mask := patient / f"{modality}_mask.nii.gz").exists()
        ]

    return cases


def _torso(image: str, mask: str) -> Callable[[Path], list[Case]]:
    return lambda folder: [Case("torso", folder / f"{image}.nii.gz", (MaskFile(folder / f"{mask}.nii.gz"),), "torso")]


_TORSO_ORGANS = {"spleen": 1, "right kidney": 2, "left kidney": 3, "liver": 5, "stomach": 6}

REAL_SETS = (
    RealSet(
        "hippocampus, MR",
        "Task04_Hippocampus",
        lambda folder: open_dataset("momo", folder, max_cases=60).validation,
        {"anterior": 1, "posterior": 2},
        "mr",
        50,
    ),
    RealSet("breast, benign, ultrasound", "Dataset_BUSI_with_GT", _busi("benign"), {"lesion": 1}, "ultrasound", 100),
    RealSet(
        "breast, malignant, ultrasound", "Dataset_BUSI_with_GT", _busi("malignant"), {"lesion": 1}, "ultrasound", 100
    ),
    RealSet(
        "head and neck, CT",
        "OpenKBP_HeadNeck",
        lambda folder: open_dataset("segrap", folder).validation,
        {
            "brainstem": 1,
            "spinal cord": 2,
            "right parotid": 3,
            "left parotid": 4,
            "esophagus": 5,
            "larynx": 6,
            "mandible": 7,
        },
        "ct_head_neck",
        10,
    ),
    RealSet("sarcoma, CT", "STS_CT_MR", _sarcoma("CT"), {"tumour": 1}, "ct_abdomen", 50),
    RealSet("sarcoma, MR", "STS_CT_MR", _sarcoma("MR_T1"), {"tumour": 1}, "mr", 50),
    RealSet(
        "torso, CT",
        "Torso_CT_MR",
        _torso("example_ct", "example_seg_fast_force_split"),
        _TORSO_ORGANS,
        "ct_abdomen",
        50,
    ),
)
