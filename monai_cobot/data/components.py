"""The connected parts of a label in a slice."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

__all__ = ["large_components"]


def large_components(mask: np.ndarray, least: int) -> tuple[np.ndarray, list[int]]:
    """The connected components of a mask that are large enough.

    Args:
        mask: (H, W) bool.
        least: pixels that a component has.

    Returns:
        (H, W), the number of each pixel's component, 0 outside the mask, and the numbers of those that are large
        enough. Pixels are connected to their 8 neighbours; all components, also small ones, are numbered from 1 in the
        order of their first pixels.
    """
    numbers = np.zeros(mask.shape, dtype=np.uint32)
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return numbers, []
    # most labels fill a small part of their slice
    part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    image = sitk.GetImageFromArray(mask[part].astype(np.uint8))
    numbers[part] = sitk.GetArrayFromImage(sitk.ConnectedComponent(image, True))
    areas = np.bincount(numbers[part].ravel())
    return numbers, [number for number in range(1, len(areas)) if areas[number] >= least]
