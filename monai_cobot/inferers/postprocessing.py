"""Tidying a mask: one piece, no holes."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

__all__ = ["fill_holes", "largest_component"]


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of a mask (I, J, K) bool, whose voxels touch by a face, an edge or a corner."""
    if not mask.any():
        return mask
    components = sitk.ConnectedComponent(_image(mask), True)
    # a copy: a view does not keep the image, which nothing else does here
    return sitk.GetArrayFromImage(sitk.RelabelComponent(components)) == 1  # sorted by size


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
