"""Masks of whole regions: from a 3D box, from propagated slices, and from all three slice axes together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from monai_cobot.inferers.cancel import Progress
from monai_cobot.inferers.grid import SLICE_NORMALS, Box, Region
from monai_cobot.inferers.objects import MaskCrop
from monai_cobot.inferers.prediction import SlicePrediction, SlicePredictor
from monai_cobot.inferers.prompts import SlicePrompts
from monai_cobot.inferers.propagation import PropagatedSlice, grown_box
from monai_cobot.transforms import place_slice, take_slice

__all__ = ["fuse_axes", "mask_of_slices", "segment_region"]


def segment_region(
    predict: SlicePredictor,
    region: Region,
    axes: Sequence[str],
    shape: Sequence[int],
    progress: Progress | None = None,
) -> np.ndarray:
    """Segment what a 3D box holds, slice by slice; each slice is prompted with the box's own cross-section.

    Args:
        predict: segments a slice.
        region: the box, inside the volume.
        axes: slice axes; with several, probabilities are averaged.
        shape: (I, J, K) of the volume.
        progress: is told the slices done and to do.

    Returns:
        (I, J, K) bool, of the region's shape.

    Raises:
        Cancelled: if so asked.
    """
    total = sum(len(region.indices(axis)) for axis in axes)
    count = 0
    probability = np.zeros(region.shape, dtype=np.float32)
    for axis in axes:
        box = region.box(axis, shape)

        def of_slice(index: int, axis: str = axis, box: Box = box) -> SlicePrediction:
            nonlocal count
            prediction = predict(axis, index, SlicePrompts(box))
            count += 1
            if progress is not None:
                progress(count, total)
            return prediction

        probability += _probability(region, axis, shape, of_slice)
    return probability > len(axes) / 2


def mask_of_slices(
    slices: Mapping[int, PropagatedSlice], axis: str, shape: Sequence[int]
) -> tuple[Region, np.ndarray] | None:
    """The mask of propagated slices in the region that they fill.

    Returns:
        Where, and (I, J, K) bool; None where all masks are empty.
    """
    if not slices:
        return None
    normal = SLICE_NORMALS[axis]
    low, high = [0, 0, 0], list(shape)
    low[normal], high[normal] = min(slices), max(slices) + 1
    region = Region((low[0], low[1], low[2]), (high[0], high[1], high[2]))
    mask = np.zeros(region.shape, dtype=bool)
    for index, propagated in slices.items():
        place_slice(mask[None], propagated.prediction.mask[None], axis, index - low[normal])
    return (region, mask) if mask.any() else None


def fuse_axes(
    predict: SlicePredictor,
    slices: Mapping[int, PropagatedSlice],
    axis: str,
    shape: Sequence[int],
    limits: range,
    margin: float,
    progress: Progress | None = None,
) -> tuple[Region, np.ndarray] | None:
    """The mask of propagated slices, improved by the two other slice axes: probabilities of the three are averaged.

    Args:
        predict: segments a slice.
        slices: as :func:`~monai_cobot.inferers.propagation.propagate` gives them.
        axis: their slice axis.
        shape: (I, J, K) of the volume.
        limits: slices that the result may have.
        margin: slices of the other axes are prompted with the box of the mask there, larger by this share.
        progress: is told the slices done and to do.

    Returns:
        Where, which is whole slices, and (I, J, K) bool; None where that is empty.

    Raises:
        Cancelled: if so asked.
    """
    found = mask_of_slices(slices, axis, shape)
    if found is None:
        return None
    whole, mask = found
    tight = Region.around(mask)
    assert tight is not None
    low = np.add(whole.low, tight.low)
    region = Region(tuple(low.tolist()), tuple((low + tight.shape).tolist())).grown(1).clipped(shape)
    region = region.in_slices(axis, limits)
    first = np.zeros(shape, dtype=bool)
    first[whole.slices] = mask
    probability = _probability(region, axis, shape, lambda index: _existing(slices, index))
    others = [other for other in SLICE_NORMALS if other != axis]
    total = sum(len(region.indices(other)) for other in others)
    count = 0
    for other in others:

        def of_slice(index: int, other: str = other) -> SlicePrediction | None:
            nonlocal count
            plane = take_slice(first[None], other, index)[0]
            prediction = predict(other, index, SlicePrompts(grown_box(plane, margin))) if plane.any() else None
            count += 1
            if progress is not None:
                progress(count, total)
            return prediction

        probability += _probability(region, other, shape, of_slice)
    whole = whole.union(region)  # both are no larger than whole slices, and the first is as large
    fused = MaskCrop(region, probability > 1.5).read(whole)
    return (whole, fused) if fused.any() else None


def _existing(slices: Mapping[int, PropagatedSlice], index: int) -> SlicePrediction | None:
    return slices[index].prediction if index in slices else None


def _probability(
    region: Region, axis: str, shape: Sequence[int], predict: Callable[[int], SlicePrediction | None]
) -> np.ndarray:
    """(I, J, K) float32 in [0, 1] of the region's shape; 0 in slices without a prediction."""
    probability = np.zeros(region.shape, dtype=np.float32)
    x0, y0, x1, y1 = (int(edge) for edge in region.box(axis, shape))
    for position, index in enumerate(region.indices(axis)):
        prediction = predict(index)
        if prediction is not None:
            inside = torch.from_numpy(prediction.logits[y0:y1, x0:x1]).sigmoid().numpy()
            place_slice(probability[None], inside[None], axis, position)
    return probability
