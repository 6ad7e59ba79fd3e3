"""A case: one image with its masks, and whose it is."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from monai_cobot.data.volumes import Volume, read_mask, read_volume
from monai_cobot.transforms.slices import slices_of

__all__ = ["Case", "CaseError", "LoadedCase", "MaskFile", "check_same_grid", "load_case"]

# The share of a voxel by which the corners of an image and its mask may differ: headers are rounded to float32.
_GRID_TOLERANCE = 0.1


class CaseError(ValueError):
    """A case that cannot be used; the message names the case and the file, and says what to do."""


@dataclass(frozen=True)
class MaskFile:
    """A mask on disk.

    Attributes:
        path: the file.
        value: None for a label map, whose voxels are labels; a number for a mask of one structure, whose foreground
            (everything that is not 0) is that label.
    """

    path: Path
    value: int | None = None


@dataclass(frozen=True)
class Case:
    """One image with its masks.

    Attributes:
        name: unique in its data set.
        image: the file, or the folder of a DICOM series.
        masks: its masks; masks of single structures may overlap.
        patient: whose image it is; a split never divides a patient.
        split: "training" or "validation" where the data set itself says so.
    """

    name: str
    image: Path
    masks: tuple[MaskFile, ...]
    patient: str
    split: str | None = None


@dataclass(frozen=True)
class LoadedCase:
    """A case in memory.

    Attributes:
        case: what was loaded.
        image: the image in LPS.
        label_maps: (N, I, J, K) on the image's grid. N is 1, and more only where structures overlap: each file of one
            structure lies entirely in one of the maps.
    """

    case: Case
    image: Volume
    label_maps: np.ndarray

    def mask(self, value: int) -> np.ndarray:
        """(I, J, K) bool, the voxels of a label."""
        return (self.label_maps == value).any(axis=0)

    def areas(self, axis: str) -> dict[int, np.ndarray]:
        """The pixels of each label that is present in each slice along an axis: label -> (slices,), labels rising."""
        length = int(self.label_maps.max()) + 1
        slices = slices_of(self.label_maps, axis)  # (slices, N, H, W)
        areas = np.zeros((len(slices), length), dtype=np.int32)
        for index, maps in enumerate(slices):
            areas[index] = np.bincount(maps[0].ravel(), minlength=length)
            for number in range(1, len(maps)):  # a label that several maps have at a place counts once there
                new = (maps[number] != maps[:number]).all(axis=0)
                areas[index] += np.bincount(maps[number][new], minlength=length)
        return {int(value): areas[:, value] for value in np.flatnonzero(areas.any(axis=0)) if value}


def load_case(case: Case, values: Collection[int] | None = None) -> LoadedCase:
    """Reads the image and the masks of a case.

    Args:
        case: what to read.
        values: the labels of interest; files of other structures are not read. None for all.

    Raises:
        CaseError: where a file is missing or damaged, the image has no contrast, or a mask has another shape or lies
            elsewhere than its image.
    """
    try:
        image = read_volume(case.image)
        maps: list[np.ndarray] = []
        for file in case.masks:
            if values is None or file.value is None or file.value in values:
                mask = read_mask(file.path)
                check_same_grid(image, mask)
                _merge(maps, mask.array[0], file.value)
    except (OSError, ValueError) as error:
        raise CaseError(f"case {case.name}: {error}") from error
    if not maps:
        maps = [np.zeros(image.array.shape[1:], dtype=np.uint8)]
    return LoadedCase(case, image, np.stack(maps) if len(maps) > 1 else maps[0][None])


def _merge(maps: list[np.ndarray], mask: np.ndarray, value: int | None) -> None:
    """Adds a mask to the first of the maps in which it covers no other structure, or to a new one."""
    labels = mask if value is None else (mask > 0) * np.min_scalar_type(value).type(value)
    foreground = labels > 0
    for index, existing in enumerate(maps):
        taken = existing[foreground]
        if ((taken == 0) | (taken == labels[foreground])).all():
            maps[index] = np.maximum(existing, labels)
            return
    maps.append(labels)


def check_same_grid(image: Volume, mask: Volume) -> None:
    """Whether a mask has its image's shape and lies where it does.

    Raises:
        ValueError: it does not; names the mask's file.
    """
    if image.array.shape[1:] != mask.array.shape[1:]:
        raise ValueError(
            f"{mask.path}: the mask has {_by(mask.source_shape)} voxels, its image {image.path.name} has "
            f"{_by(image.source_shape)}. Resample the mask to the image's grid, or look whether it belongs to another."
        )
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=float)
    corners[:, :3] *= np.array(image.array.shape[1:]) - 1
    shift = np.abs(corners @ (image.affine - mask.affine).T)[:, :3].max()  # mm
    if shift > _GRID_TOLERANCE * min(image.spacing):
        raise ValueError(
            f"{mask.path}: the mask lies up to {shift:.2f} mm away from its image {image.path.name}: their affines "
            "differ. Resample the mask to the image's grid, or look whether it belongs to another."
        )


def _by(shape: tuple[int, int, int]) -> str:
    return " x ".join(str(length) for length in shape)
