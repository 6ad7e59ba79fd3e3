"""Between a volume and its slices, as a radiologist sees them.

Volumes are in LPS: voxel indices grow towards the patient's left (I), posterior (J) and superior (K). Seen from the
feet, as is usual, the patient's left is then on the right of an axial slice.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform

__all__ = ["SLICE_AXES", "TakeSlice", "TakeSliced", "place_slice", "slices_of", "take_slice", "volume_from_slices"]

ArrayT = TypeVar("ArrayT", np.ndarray, torch.Tensor)

SLICE_AXES = ("axial", "coronal", "sagittal")

# (C, I, J, K) -> (slices, C, H, W)
_AXES_ORDER = {"axial": (3, 0, 2, 1), "coronal": (2, 0, 3, 1), "sagittal": (1, 0, 3, 2)}


def slices_of(volume: ArrayT, axis: str) -> ArrayT:
    """All slices of a volume along one axis: a view for an array, for a tensor a copy where rows are turned over.

    axial: rows to posterior, columns to the patient's left. coronal: superior on top, columns to the patient's left.
    sagittal: superior on top, columns to posterior.

    Args:
        volume: (C, I, J, K) in LPS.
        axis: one of `SLICE_AXES`.

    Returns:
        (slices, C, H, W), slice n at voxel index n of its axis.

    Raises:
        ValueError: for an unknown axis, or a volume without four axes.
    """
    _check_axis(axis)
    if volume.ndim != 4:
        raise ValueError(f"slices are taken from a volume (C, I, J, K); this one has the shape {tuple(volume.shape)}.")
    return _rows_turned(_permuted(volume, _AXES_ORDER[axis]), axis)


def volume_from_slices(slices: ArrayT, axis: str) -> ArrayT:
    """The exact inverse of `slices_of`: (slices, C, H, W) -> (C, I, J, K) in LPS.

    Raises:
        ValueError: for an unknown axis, or slices without four axes.
    """
    _check_axis(axis)
    if slices.ndim != 4:
        raise ValueError(f"a volume is made of slices (slices, C, H, W); these have the shape {tuple(slices.shape)}.")
    order = _AXES_ORDER[axis]
    return _permuted(_rows_turned(slices, axis), tuple(order.index(n) for n in range(4)))


def take_slice(volume: ArrayT, axis: str, index: int) -> ArrayT:
    """One slice of a volume, oriented as `slices_of` says.

    Args:
        volume: (C, I, J, K) in LPS.
        axis: one of `SLICE_AXES`.
        index: voxel index along that axis, 0 at the patient's right, anterior or inferior end.

    Returns:
        (C, H, W), a view where possible.

    Raises:
        ValueError: for an unknown axis, a volume without four axes or an index outside the volume.
    """
    return _rows_turned(_plane(volume, axis, index)[None], axis)[0]


def place_slice(volume: ArrayT, slice_: ArrayT, axis: str, index: int) -> None:
    """Writes a slice back into a volume in place: the exact inverse of `take_slice`.

    Args:
        volume: (C, I, J, K) in LPS, changed in place.
        slice_: (C, H, W), as `take_slice` gives it.
        axis: one of `SLICE_AXES`.
        index: voxel index along that axis.

    Raises:
        ValueError: for an unknown axis, an index outside the volume, or a slice of another shape.
    """
    plane = _plane(volume, axis, index)  # (C, H, W), rows not yet turned over
    if tuple(slice_.shape) != tuple(plane.shape):
        raise ValueError(
            f"a slice of shape {tuple(slice_.shape)} does not fit the {axis} slices of this volume, "
            f"which have the shape {tuple(plane.shape)}."
        )
    plane[:] = _rows_turned(slice_[None], axis)[0]


class TakeSlice(Transform):
    """`take_slice` as a transform: a volume (C, I, J, K) in LPS to its slice (C, H, W)."""

    def __init__(self, axis: str = "axial", index: int = 0) -> None:
        _check_axis(axis)
        self.axis = axis
        self.index = index

    def __call__(self, volume: ArrayT) -> ArrayT:
        return take_slice(volume, self.axis, self.index)


class TakeSliced(MapTransform):
    """`TakeSlice` on the entries ``keys``; the index is read from the entry ``index_key``."""

    def __init__(
        self,
        keys: KeysCollection,
        axis: str = "axial",
        index_key: str = "slice",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        _check_axis(axis)
        self.axis = axis
        self.index_key = index_key

    def __call__(self, data: Any) -> dict[Any, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = take_slice(result[key], self.axis, int(result[self.index_key]))
        return result


def _check_axis(axis: str) -> None:
    if axis not in SLICE_AXES:
        raise ValueError(f"unknown slice axis {axis!r}; choose one of {', '.join(SLICE_AXES)}.")


def _plane(volume: ArrayT, axis: str, index: int) -> ArrayT:
    """A view (C, H, W) of one slice, its rows in the order of the volume."""
    _check_axis(axis)
    if volume.ndim != 4:
        raise ValueError(f"slices are taken from a volume (C, I, J, K); this one has the shape {tuple(volume.shape)}.")
    slices = _permuted(volume, _AXES_ORDER[axis])
    if not 0 <= index < slices.shape[0]:
        raise ValueError(f"{axis} slice {index} is outside the volume, which has slices 0 to {slices.shape[0] - 1}.")
    return slices[index]


def _permuted(array: ArrayT, order: tuple[int, ...]) -> ArrayT:
    return array.permute(order) if isinstance(array, torch.Tensor) else np.transpose(array, order)


def _rows_turned(slices: ArrayT, axis: str) -> ArrayT:
    """(slices, C, H, W) with superior on top; axial slices have no superior end and stay as they are."""
    if axis == "axial":
        return slices
    return slices.flip(2) if isinstance(slices, torch.Tensor) else slices[:, :, ::-1]
