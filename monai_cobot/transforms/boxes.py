"""Box prompts: from a mask, checked, and moved at random.

A box is (x0, y0, x1, y1) in pixels of the slice it belongs to, half-open, x along the last axis of the image: the box
of a single pixel in row r and column c is (c, r, c + 1, r + 1).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, Randomizable, Transform

__all__ = [
    "JITTER_DIRECTIONS",
    "BoxFromMask",
    "BoxFromMaskd",
    "RandJitterBox",
    "RandJitterBoxd",
    "box_from_mask",
    "check_box",
    "jitter_box",
]

JITTER_DIRECTIONS = ("both", "outwards")


def box_from_mask(mask: NdarrayOrTensor) -> torch.Tensor:
    """The smallest box that holds every foreground pixel.

    Args:
        mask: (H, W) or (1, H, W); whatever is not 0 is foreground.

    Returns:
        (4,) float32, xyxy, half-open.

    Raises:
        ValueError: for an empty mask, or one of another shape.
    """
    foreground = np.asarray(mask)
    if foreground.ndim == 3 and foreground.shape[0] == 1:
        foreground = foreground[0]
    if foreground.ndim != 2:
        raise ValueError(f"a box is made of a mask (H, W) or (1, H, W); this one has the shape {foreground.shape}.")
    rows = np.flatnonzero(foreground.any(axis=1))
    columns = np.flatnonzero(foreground.any(axis=0))
    if rows.size == 0:
        raise ValueError("an empty mask has no box; leave out slices without foreground.")
    return torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=torch.float32)


def check_box(box: NdarrayOrTensor, shape: tuple[int, int]) -> None:
    """Whether a box can serve as a prompt: four finite numbers, not inverted, not empty, overlapping the image.

    Args:
        box: (4,), xyxy, half-open.
        shape: (H, W) of the image the box belongs to.

    Raises:
        ValueError: says what is wrong with the box.
    """
    values = np.asarray(box, dtype=np.float64)
    height, width = shape
    if values.shape != (4,):
        raise ValueError(f"a box is four numbers x0, y0, x1, y1; this one has the shape {values.shape}.")
    x0, y0, x1, y1 = values.tolist()
    said = f"box ({x0:g}, {y0:g}, {x1:g}, {y1:g})"
    if not np.isfinite(values).all():
        raise ValueError(f"{said} holds a number that is not finite.")
    if x1 <= x0 or y1 <= y0:
        raise ValueError(f"{said} is inverted or empty: x1 must be greater than x0, and y1 than y0.")
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        raise ValueError(f"{said} is outside the image, which is {width} pixels wide and {height} high.")


def jitter_box(
    box: NdarrayOrTensor,
    shape: tuple[int, int],
    max_jitter: int,
    direction: str,
    random: np.random.RandomState,
) -> torch.Tensor:
    """Moves each side of a box by its own random whole number of pixels.

    The prompt augmentation of SAM-COBOT (Peng et al., CVPR 2024): 0 to 50 pixels. A side that moves inwards stops half
    a pixel from the box's middle, so that the result is never empty; the result is clipped to the image.

    Args:
        box: (4,), xyxy, half-open, overlapping the image.
        shape: (H, W) of the image.
        max_jitter: the most pixels a side moves.
        direction: "both", inwards and outwards alike, or "outwards", the box only grows.
        random: where the numbers are drawn from.

    Returns:
        (4,) float32 inside the image.

    Raises:
        ValueError: for a box that `check_box` refuses, a negative ``max_jitter`` or an unknown direction.
    """
    _check_jitter(max_jitter, direction)
    check_box(box, shape)
    height, width = shape
    limit = np.array([width, height, width, height])
    start = np.clip(np.asarray(box, dtype=np.float64), 0, limit)
    outwards = random.randint(0 if direction == "outwards" else -max_jitter, max_jitter + 1, size=4)
    moved = start + outwards * np.array([-1, -1, 1, 1])
    middle = (start[:2] + start[2:]) / 2
    half = np.minimum(0.5, (start[2:] - start[:2]) / 2)
    moved[:2] = np.minimum(moved[:2], middle - half)
    moved[2:] = np.maximum(moved[2:], middle + half)
    return torch.from_numpy(np.clip(moved, 0, limit).astype(np.float32))


class BoxFromMask(Transform):
    """`box_from_mask` as a transform."""

    def __call__(self, mask: NdarrayOrTensor) -> torch.Tensor:
        return box_from_mask(mask)


class BoxFromMaskd(Transform):
    """Puts the box of the mask in entry ``mask_key`` into entry ``box_key``."""

    def __init__(self, mask_key: str = "label", box_key: str = "box") -> None:
        self.mask_key = mask_key
        self.box_key = box_key

    def __call__(self, data: Any) -> dict[Any, Any]:
        return {**data, self.box_key: box_from_mask(data[self.mask_key])}


class RandJitterBox(Randomizable, Transform):
    """`jitter_box` as a random transform.

    Args:
        max_jitter: the most pixels a side moves, in pixels of the image that the box belongs to at this point.
        direction: "both" or "outwards".

    Raises:
        ValueError: for a negative ``max_jitter`` or an unknown direction.
    """

    def __init__(self, max_jitter: int = 50, direction: str = "both") -> None:
        _check_jitter(max_jitter, direction)
        self.max_jitter = max_jitter
        self.direction = direction

    def __call__(self, box: NdarrayOrTensor, shape: tuple[int, int]) -> torch.Tensor:  # type: ignore[override]
        """The box (4,) moved inside an image of ``shape`` (H, W)."""
        return jitter_box(box, shape, self.max_jitter, self.direction, self.R)


class RandJitterBoxd(Randomizable, MapTransform):
    """`RandJitterBox` on the box entries ``keys``; the image in entry ``image_key`` (C, H, W) says the shape.

    Behind a `ResizeLongestSided` it is the shape without the padding, into which no box reaches at inference either.
    """

    def __init__(
        self,
        keys: KeysCollection = "box",
        max_jitter: int = 50,
        direction: str = "both",
        image_key: str = "image",
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        _check_jitter(max_jitter, direction)
        self.max_jitter = max_jitter
        self.direction = direction
        self.image_key = image_key

    def __call__(self, data: Any) -> dict[Any, Any]:
        result = dict(data)
        shape = result.get("resized_shape", tuple(result[self.image_key].shape[-2:]))
        for key in self.key_iterator(result):
            result[key] = jitter_box(result[key], shape, self.max_jitter, self.direction, self.R)
        return result


def _check_jitter(max_jitter: int, direction: str) -> None:
    if max_jitter < 0:
        raise ValueError(f"max_jitter is {max_jitter}; it must be 0 or more pixels.")
    if direction not in JITTER_DIRECTIONS:
        raise ValueError(f"unknown jitter direction {direction!r}; choose one of {', '.join(JITTER_DIRECTIONS)}.")
