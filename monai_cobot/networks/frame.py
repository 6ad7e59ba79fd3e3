"""SAM's frame: the square image that SAM sees, and the only place where sizes and boxes are converted to it.

An image of any shape is scaled so that its longest side is SAM's image size, lies in the top left corner of the frame,
and is padded at the bottom and on the right. The arithmetic is that of
``segment_anything.utils.transforms.ResizeLongestSide``.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

PIXEL_MEAN = (0.485, 0.456, 0.406)
"""SAM's mean of the red, green and blue channel, for images in [0, 1] (the published figures are 255 times these)."""

PIXEL_STD = (0.229, 0.224, 0.225)
"""SAM's standard deviation of the red, green and blue channel, for images in [0, 1]."""


def resized_shape(height: int, width: int, size: int) -> tuple[int, int]:
    """The shape of an image once its longest side is ``size`` pixels, rounded as SAM rounds and never below one pixel.

    Args:
        height: rows of the image, in pixels.
        width: columns of the image, in pixels.
        size: length of the longest side afterwards, in pixels.

    Returns:
        Rows and columns afterwards.

    Raises:
        ValueError: a length is not positive.
    """
    if min(height, width, size) < 1:
        raise ValueError(
            f"Cannot resize an image of {height} x {width} pixels to {size}: every length must be at least 1."
        )
    scale = size / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize_longest_side(image: Tensor, size: int) -> Tensor:
    """Scale an image so that its longest side is ``size`` pixels (bilinear, with antialiasing, as SAM does).

    Args:
        image: (C, H, W) or (B, C, H, W), floating point.
        size: length of the longest side afterwards, in pixels.

    Returns:
        The scaled image, (..., h, w) with ``(h, w) = resized_shape(H, W, size)``; the image itself where nothing
        changes.

    Raises:
        ValueError: the image has neither three nor four axes.
    """
    if image.ndim not in (3, 4):
        raise ValueError(f"Expected an image of shape (C, H, W) or (B, C, H, W), got {tuple(image.shape)}.")
    height, width = int(image.shape[-2]), int(image.shape[-1])
    shape = resized_shape(height, width, size)
    if shape == (height, width):
        return image
    batch = image if image.ndim == 4 else image.unsqueeze(0)
    shrinks = size < max(height, width)  # enlarging, antialiasing changes nothing but takes twice as long
    resized = F.interpolate(batch, shape, mode="bilinear", align_corners=False, antialias=shrinks)
    return resized if image.ndim == 4 else resized.squeeze(0)


def pad_to_square(image: Tensor, size: int, value: float = 0.0) -> Tensor:
    """Pad an image at the bottom and on the right to ``size`` x ``size`` pixels.

    Args:
        image: (..., H, W), no side longer than ``size``.
        size: length of both sides afterwards, in pixels.
        value: what the padding is filled with.

    Returns:
        (..., size, size); the image itself where nothing changes.

    Raises:
        ValueError: a side of the image is longer than ``size``.
    """
    height, width = int(image.shape[-2]), int(image.shape[-1])
    if max(height, width) > size:
        raise ValueError(
            f"An image of {height} x {width} pixels does not fit into {size} x {size}: call resize_longest_side first."
        )
    if height == width == size:
        return image
    return F.pad(image, (0, size - width, 0, size - height), value=value)


def logits_to_image(logits: Tensor, image_shape: tuple[int, int], size: int) -> Tensor:
    """Bring the mask decoder's answers back to the image, as ``Sam.postprocess_masks`` of segment_anything does.

    Args:
        logits: (B, N, h, w) over SAM's frame, at any resolution.
        image_shape: H, W, rows and columns of the image.
        size: length of a side of SAM's frame, in pixels.

    Returns:
        (B, N, H, W).
    """
    height, width = resized_shape(*image_shape, size)
    if logits.shape[-2:] != (size, size):
        logits = F.interpolate(logits, (size, size), mode="bilinear", align_corners=False)
    logits = logits[..., :height, :width]
    if logits.shape[-2:] != image_shape:
        logits = F.interpolate(logits, image_shape, mode="bilinear", align_corners=False)
    return logits


def boxes_to_sam_frame(boxes: Tensor, shape: tuple[int, int], size: int) -> Tensor:
    """Convert boxes of an image to the coordinates that SAM's prompt encoder takes.

    Our boxes are half-open and measured on pixel edges: the whole of an image of W columns reaches from x = 0 to x = W.
    SAM's are indices of pixel centres, to which it adds half a pixel itself: its first column has x = 0 and its last
    one x = w - 1, where w is the width in SAM's frame. So a low edge becomes ``edge * scale`` and a high edge ``edge *
    scale - 1``. A box that is smaller than a pixel of the frame would come out inverted; it becomes the point in its
    middle. What lies outside the image is cut off.

    Args:
        boxes: (..., 4) as x_low, y_low, x_high, y_high in pixels of the image, half-open.
        shape: rows and columns of the image.
        size: length of a side of SAM's frame, in pixels.

    Returns:
        (..., 4) in float32, in pixels of SAM's frame.

    Raises:
        ValueError: the last axis of the boxes is not 4.
    """
    if boxes.shape[-1] != 4:
        raise ValueError(f"Expected boxes of shape (..., 4) as x_low, y_low, x_high, y_high, got {tuple(boxes.shape)}.")
    height, width = shape
    resized_height, resized_width = resized_shape(height, width, size)
    limit = boxes.new_tensor((width, height), dtype=torch.float32)
    scale = boxes.new_tensor((resized_width / width, resized_height / height), dtype=torch.float32)
    corners = boxes.float().unflatten(-1, (2, 2)).clamp(min=0).minimum(limit) * scale  # (..., low or high, x or y)
    low, high = corners[..., 0, :], corners[..., 1, :] - 1
    middle = (low + high) / 2
    return torch.cat((low.minimum(middle), high.maximum(middle)), dim=-1)


def points_to_sam_frame(points: Tensor, shape: tuple[int, int], size: int) -> Tensor:
    """Convert points of an image to the coordinates that SAM's prompt encoder takes.

    Ours are measured on pixel edges, as boxes are: the middle of the first pixel lies at 0.5. SAM's are indices of
    pixel centres, where it lies at 0.

    Args:
        points: (..., 2) as x, y in pixels of the image.
        shape: rows and columns of the image.
        size: length of a side of SAM's frame, in pixels.

    Returns:
        (..., 2) in float32, in pixels of SAM's frame.
    """
    height, width = shape
    resized_height, resized_width = resized_shape(height, width, size)
    scale = points.new_tensor((resized_width / width, resized_height / height), dtype=torch.float32)
    return points.float() * scale - 0.5
