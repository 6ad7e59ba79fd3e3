"""Small files of every kind, written anew for each test."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

Write = Callable[..., Path]


@pytest.fixture
def write_nifti(tmp_path: Path) -> Write:
    """Writes an array as NIfTI below the test's folder."""

    def write(name: str, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.diag([-1.0, -1, 2, 1]) if affine is None else affine), path)
        return path

    return write


def case_arrays(shape: tuple[int, int, int] = (40, 30, 6), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An image and a label map: 1 is a large block, 2 two small blocks in slices 1 to 4."""
    image = np.random.default_rng(seed).integers(-200, 300, shape).astype(np.int16)
    labels = np.zeros(shape, dtype=np.uint8)
    labels[5:25, 4:16, 1:5] = 1
    labels[28:38, 4:10, 1:5] = 2
    labels[28:33, 20:25, 1:5] = 2
    return image, labels


@pytest.fixture
def write_msd(tmp_path: Path, write_nifti: Write) -> Write:
    """Writes a folder in MSD layout."""

    def write(arrays: Mapping[str, tuple[np.ndarray, np.ndarray]], root: str = "msd", **changes: object) -> Path:
        for name, (image, labels) in arrays.items():
            write_nifti(f"{root}/imagesTr/{name}.nii.gz", image)
            write_nifti(f"{root}/labelsTr/{name}.nii.gz", labels)
        description = {
            "modality": {"0": "CT"},
            "labels": {"0": "background", "1": "block", "2": "pair"},
            "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in arrays],
        }
        (tmp_path / root / "dataset.json").write_text(json.dumps(description | changes), encoding="utf-8")
        return tmp_path / root

    return write
