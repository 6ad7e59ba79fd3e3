"""How well a mask fits the truth: overlap, and the distance of the surfaces."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike

from monai_cobot.reports.dice import dice_coefficient


@dataclass(frozen=True)
class MaskScores:
    """What a mask reaches.

    Attributes:
        dice: DSC, in [0, 1].
        iou: intersection over union, in [0, 1].
        surface_dice: the part of both surfaces that lies within the tolerance of the other, in [0, 1]; Nikolov et al.,
            Clinically Applicable Segmentation of Head and Neck Anatomy (2021).
        hausdorff95: 95th percentile of the surfaces' distances, in the unit of the spacing; NaN where just one of
            the masks is empty.
    """

    dice: float
    iou: float
    surface_dice: float
    hausdorff95: float


MEASURES = {
    "dice": ("DSC", "%"),
    "iou": ("IoU", "%"),
    "surface_dice": ("surface DSC", "%"),
    "hausdorff95": ("HD95", "mm"),
}
"""Attribute of :class:`MaskScores` -> what people call it, and the unit in which it is drawn."""


def distance_unit(*files: Path) -> str:
    """In what distances between masks of these files are: "pixels" where all are pictures, whose spacing is not known,
    else "mm"."""
    return "pixels" if all(file.suffix.lower() in (".png", ".jpg", ".jpeg") for file in files) else "mm"


def score_mask(
    predicted: ArrayLike, truth: ArrayLike, spacing: Sequence[float] = (1.0, 1.0, 1.0), tolerance: float = 2.0
) -> MaskScores:
    """Compare a mask with the truth, with MONAI's metrics.

    Args:
        predicted: (I, J, K); foreground where not 0. A picture has one voxel along K.
        truth: as ``predicted``, of the same shape.
        spacing: of the voxels along I, J, K, in mm; 1 for distances in pixels.
        tolerance: distance at which surfaces still count as the same, in the unit of the spacing.

    Returns:
        The scores; two empty masks fit perfectly.

    Raises:
        ValueError: for shapes that differ or are not three-dimensional.
    """
    masks = np.asarray(predicted) != 0, np.asarray(truth) != 0
    if masks[0].shape != masks[1].shape or masks[0].ndim != 3:
        raise ValueError(
            f"Expected two masks of the same shape (I, J, K), got {masks[0].shape} and {masks[1].shape}: "
            "resample one to the other's grid."
        )
    shared, *sizes = (int(np.count_nonzero(mask)) for mask in (masks[0] & masks[1], *masks))
    union = sum(sizes) - shared
    dice, iou = dice_coefficient(shared, *sizes), shared / union if union else 1.0
    if 0 in sizes:
        both = sum(sizes) == 0
        return MaskScores(dice, iou, float(both), 0.0 if both else math.nan)
    # here, for it brings matplotlib's pyplot along, which is the user's
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    # a picture has an outline, and no top and bottom; a single row stays one of two axes, which MONAI needs
    flat_axes = [axis for axis in range(3) if masks[0].shape[axis] == 1]
    axes = [axis for axis in range(3) if axis not in flat_axes[-1:]]
    flat = [torch.from_numpy(mask.reshape([mask.shape[axis] for axis in axes]))[None, None] for mask in masks]
    steps = [float(spacing[axis]) for axis in axes]
    surface = compute_surface_dice(flat[0], flat[1], [tolerance], include_background=True, spacing=steps)
    distance = compute_hausdorff_distance(flat[0], flat[1], True, percentile=95, spacing=steps)
    return MaskScores(dice, iou, float(surface), float(distance))
