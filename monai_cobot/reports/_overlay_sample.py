"""What an overlay shows, checked, and the part of it that its panels show."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[Any] | torch.Tensor

# The panels show the whole image unless the object spans less than this part of it.
_TINY = 1 / 3
# Around a tiny object they show a window this many times its size, but at least so many pixels.
_WINDOW_MARGIN = 2.5
_LEAST_WINDOW = 24


class OverlaySample(TypedDict):
    """One slice with its prompt, its truth and its predictions; arrays or tensors."""

    image: Array
    """(H, W), (1, H, W) or (3, H, W) in [0, 1]."""
    truth: Array
    """(H, W) or (1, H, W); foreground where not 0."""
    before: Array | None
    """The prediction before training, as ``truth``; None where there is none."""
    after: Array
    """The prediction after training, as ``truth``."""
    box: Array | Sequence[float] | None
    """The prompt: (4,) xyxy, half-open, in pixels of the image; None where there was none."""
    title: str
    """What a reader needs to find the slice again: case, label, slice."""
    dice_before: float | None
    """The DSC of ``before`` in [0, 1]; None where there is no ``before``."""
    dice_after: float
    """The DSC of ``after`` in [0, 1]."""


@dataclass(frozen=True)
class Window:
    """A rectangle in pixels of the image, which may reach beyond it."""

    left: float
    top: float
    width: float
    height: float

    def count_outside(self, mask: NDArray[np.bool_]) -> int:
        """How many foreground pixels of the mask have their centre outside."""
        rows, columns = np.nonzero(mask)
        inside = (columns + 0.5 > self.left) & (columns + 0.5 < self.left + self.width)
        inside &= (rows + 0.5 > self.top) & (rows + 0.5 < self.top + self.height)
        return int(inside.size - inside.sum())


@dataclass(frozen=True)
class Prediction:
    """A predicted mask (H, W) and its DSC."""

    mask: NDArray[np.bool_]
    dice: float


@dataclass(frozen=True)
class CheckedSample:
    """An :class:`OverlaySample` whose parts fit together."""

    image: NDArray[np.float32]
    """(H, W) or (H, W, 3) in [0, 1]."""
    truth: NDArray[np.bool_]
    before: Prediction | None
    after: Prediction
    box: tuple[float, float, float, float] | None
    title: str

    def whole(self, aspect: float) -> Window:
        """The smallest window of the given height to width that holds the whole image."""
        height, width = self.truth.shape
        return _window_around((0, 0, width, height), max(width, height / aspect), aspect)

    def enlarged(self, aspect: float) -> Window | None:
        """A window of the given height to width around the object, or None where it is large enough as it is."""
        regions = [] if self.box is None else [self.box]
        rows, columns = np.nonzero(self.truth)
        if rows.size:
            regions.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
        if not regions:
            return None
        left, top = (min(region[side] for region in regions) for side in (0, 1))
        right, bottom = (max(region[side] for region in regions) for side in (2, 3))
        height, width = self.truth.shape
        extent = max(right - left, bottom - top)
        if extent >= _TINY * max(height, width):
            return None
        side = max(_WINDOW_MARGIN * extent, _LEAST_WINDOW)
        window = _window_around((left, top, right, bottom), max(side, side / aspect), aspect)
        if window.width >= 0.75 * width or window.height >= 0.75 * height:
            return None
        # Pushed back into the image: nothing is to be seen beyond.
        return Window(
            float(np.clip(window.left, 0, width - window.width)),
            float(np.clip(window.top, 0, height - window.height)),
            window.width,
            window.height,
        )


def check_sample(sample: OverlaySample) -> CheckedSample:
    """Check that a sample's parts fit together.

    Raises:
        ValueError: if they do not; the message names the sample by its title.
    """
    title = sample["title"]
    image = _as_numpy(sample["image"]).astype(np.float32)
    if image.ndim == 2:
        image = image[None]
    if image.ndim != 3 or image.shape[0] not in (1, 3) or image.size == 0:
        raise ValueError(
            f"sample {title!r}: the image must be (H, W), (1, H, W) or (3, H, W), got {tuple(image.shape)}"
        )
    if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
        raise ValueError(
            f"sample {title!r}: the image must be in [0, 1], got {image.min():g} to {image.max():g}; scale it first"
        )
    shape = (image.shape[1], image.shape[2])
    before = sample["before"]
    return CheckedSample(
        image=image[0] if image.shape[0] == 1 else np.moveaxis(image, 0, -1),
        truth=_mask(sample["truth"], "truth", shape, title),
        before=None if before is None else _prediction(before, sample["dice_before"], "before", shape, title),
        after=_prediction(sample["after"], sample["dice_after"], "after", shape, title),
        box=None if (box := sample["box"]) is None else _box(box, shape, title),
        title=title,
    )


def _window_around(region: tuple[float, float, float, float], width: float, aspect: float) -> Window:
    left, top, right, bottom = region
    height = width * aspect
    return Window((left + right - width) / 2, (top + bottom - height) / 2, width, height)


def _as_numpy(array: Array | Sequence[float]) -> NDArray[Any]:
    return array.detach().cpu().float().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)


def _mask(mask: Array, name: str, shape: tuple[int, int], title: str) -> NDArray[np.bool_]:
    mask = _as_numpy(mask)
    if mask.shape not in (shape, (1, *shape)):
        raise ValueError(f"sample {title!r}: {name!r} must be {shape} as the image, got {mask.shape}")
    return mask.reshape(shape) != 0


def _prediction(mask: Array, dice: float | None, name: str, shape: tuple[int, int], title: str) -> Prediction:
    if dice is None or not 0 <= dice <= 1:
        raise ValueError(f"sample {title!r}: 'dice_{name}' must be in [0, 1], got {dice}")
    return Prediction(_mask(mask, name, shape, title), dice)


def _box(box: Array | Sequence[float], shape: tuple[int, int], title: str) -> tuple[float, float, float, float]:
    values = _as_numpy(box)
    height, width = shape
    if values.shape != (4,):
        raise ValueError(f"sample {title!r}: the box must be 4 numbers (left, top, right, bottom), got {values.shape}")
    left, top, right, bottom = map(float, values)
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ValueError(
            f"sample {title!r}: the box must be xyxy within the image of {width} x {height} pixels, "
            f"got ({left:g}, {top:g}, {right:g}, {bottom:g})"
        )
    return left, top, right, bottom
