"""Masks that need a box and no learning: what any prediction has to beat."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import torch
from monai.config import NdarrayOrTensor
from torch import Tensor

__all__ = ["inscribed_ellipse", "otsu_in_box"]


def inscribed_ellipse(boxes: Tensor, shape: tuple[int, int]) -> Tensor:
    """The ellipse that touches all sides of each box: the mask of somebody who does not look at the image.

    Args:
        boxes: (..., 4), xyxy, half-open pixels, none of them empty.
        shape: (H, W) of the image.

    Returns:
        (..., H, W), boolean; a pixel belongs to it if its centre does.
    """
    y, x = (torch.arange(length, device=boxes.device) + 0.5 for length in shape)
    low, high = boxes[..., :2], boxes[..., 2:]
    centre, radius = ((low + high) / 2)[..., None, None], ((high - low) / 2)[..., None, None]  # (..., 2, 1, 1)
    horizontal = (x - centre[..., 0, :, :]) / radius[..., 0, :, :]  # (..., 1, W)
    vertical = (y.unsqueeze(1) - centre[..., 1, :, :]) / radius[..., 1, :, :]  # (..., H, 1)
    return horizontal.square() + vertical.square() < 1


def otsu_in_box(image: NdarrayOrTensor, box: NdarrayOrTensor) -> np.ndarray:
    """The pixels of a box on its object's side of Otsu's threshold of the box's intensities.

    Otsu, A Threshold Selection Method from Gray-Level Histograms (1979), with 128 bins. The object's side is that of
    most pixels in the middle of the box: in the ellipse of half its width and height.

    Args:
        image: (H, W), any scale.
        box: (4,), xyxy, half-open pixels, overlapping the image.

    Returns:
        (H, W), boolean.
    """
    image = np.asarray(image)
    x0, y0, x1, y1 = np.asarray(box, dtype=np.float64)
    height, width = image.shape
    # whole pixels that the box touches
    columns = slice(max(0, int(np.floor(x0))), min(width, int(np.ceil(x1))))
    rows = slice(max(0, int(np.floor(y0))), min(height, int(np.ceil(y1))))
    inside = image[rows, columns]
    above = sitk.GetArrayFromImage(sitk.OtsuThreshold(sitk.GetImageFromArray(inside), 0, 1)).astype(bool)
    middle = torch.tensor([(3 * x0 + x1) / 4, (3 * y0 + y1) / 4, (x0 + 3 * x1) / 4, (y0 + 3 * y1) / 4])
    core = above[inscribed_ellipse(middle, (height, width)).numpy()[rows, columns]]
    mask = np.zeros(image.shape, dtype=bool)
    mask[rows, columns] = above if core.size == 0 or core.mean() >= 0.5 else ~above
    return mask
