"""Tidying a mask: the parts that were meant, no holes."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import SimpleITK as sitk

__all__ = ["components_in_slices", "fill_holes", "largest_component"]


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of a mask (I, J, K) bool, whose voxels touch by a face, an edge or a corner."""
    if not mask.any():
        return mask
    components = sitk.ConnectedComponent(_image(mask), True)
    # a copy: a view does not keep the image, which nothing else does here
    return sitk.GetArrayFromImage(sitk.RelabelComponent(components)) == 1  # sorted by size


def components_in_slices(mask: np.ndarray, slice_axis: int, indices: Collection[int]) -> np.ndarray:
    """The connected parts of a mask that have voxels in some slices.

    Args:
        mask: (I, J, K) bool, whose voxels touch by a face, an edge or a corner.
        slice_axis: axis of the slices, 0 (sagittal), 1 (coronal) or 2 (axial).
        indices: the slices, counted in the mask; others than its own hold nothing.

    Returns:
        (I, J, K) bool; the largest part alone where the mask has nothing in all of these slices.
    """
    inside = [index for index in indices if 0 <= index < mask.shape[slice_axis]]
    if not mask.take(inside, slice_axis).any():
        return largest_component(mask)
    numbers = sitk.GetArrayFromImage(sitk.ConnectedComponent(_image(mask), True))
    kept = np.zeros(numbers.max() + 1, dtype=bool)
    kept[numbers.take(inside, slice_axis)] = True
    kept[0] = False
    return kept[numbers]


def fill_holes(mask: np.ndarray, slice_axis: int) -> np.ndarray:
    """A mask (I, J, K) bool without holes in the slices along an axis: 0 (sagittal), 1 (coronal) or 2 (axial)."""
    slices = np.moveaxis(mask, slice_axis, 0)
    filled = np.stack(
        [
            sitk.GetArrayFromImage(sitk.BinaryFillhole(_image(plane), fullyConnected=False)) > 0
            if plane.any()
            else plane
            for plane in slices
        ]
    )
    return np.moveaxis(filled, 0, slice_axis)


def _image(mask: np.ndarray) -> sitk.Image:
    return sitk.GetImageFromArray(np.ascontiguousarray(mask).view(np.uint8))
