"""A slice, its mask and its box in the square frame that the network is trained on."""

from __future__ import annotations

from typing import Any

import torch
from monai.config import NdarrayOrTensor
from monai.transforms import Transform
from torch.nn.functional import interpolate, pad

from monai_cobot.networks.frame import PIXEL_MEAN, resize_longest_side, resized_shape

__all__ = ["ResizeLongestSide", "ResizeLongestSided"]


class ResizeLongestSide(Transform):
    """Resizes an image so that its longest side is ``size``, and pads it at the bottom and right to a square.

    An image that fills the square keeps its channels. Another one becomes three and is padded with SAM's pixel mean,
    which SAM's own normalisation turns into the zeros that stock SAM pads with.

    Args:
        size: side of the square, in pixels.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._padding = torch.as_tensor(PIXEL_MEAN, dtype=torch.float32).reshape(3, 1, 1)

    def __call__(self, image: NdarrayOrTensor) -> torch.Tensor:
        """(1 or 3, H, W) in [0, 1] -> (1 or 3, size, size) float32."""
        resized = resize_longest_side(torch.as_tensor(image, dtype=torch.float32), self.size)
        height, width = resized.shape[-2:]
        if height == width:
            return resized
        framed = torch.empty(3, self.size, self.size)
        framed[:, :height, :width] = resized  # one channel is resized, then spread over three
        framed[:, :height, width:] = self._padding
        framed[:, height:] = self._padding
        return framed

    def mask(self, mask: NdarrayOrTensor) -> torch.Tensor:
        """(1, H, W) of any type -> (1, size, size) of the same, by the nearest pixel, padded with 0."""
        mask = torch.as_tensor(mask)
        height, width = resized_shape(mask.shape[-2], mask.shape[-1], self.size)
        # torch takes whole numbers of one byte alone; float32 holds those of every label map
        resized = interpolate(mask[None].float(), (height, width), mode="nearest-exact")[0].to(mask.dtype)
        return resized if height == width else pad(resized, (0, self.size - width, 0, self.size - height))

    def box(self, box: NdarrayOrTensor, shape: tuple[int, int]) -> torch.Tensor:
        """(..., 4) in pixels of an image of ``shape`` (H, W) -> the same box in pixels of the square."""
        height, width = resized_shape(*shape, self.size)
        x_scale, y_scale = width / shape[1], height / shape[0]
        return torch.as_tensor(box, dtype=torch.float32) * torch.tensor([x_scale, y_scale, x_scale, y_scale])


class ResizeLongestSided(Transform):
    """`ResizeLongestSide` on an image and, where they are present, on its mask and its box.

    Beside a box it puts the entry ``resized_shape``, (H, W) of the image in the square without its padding.

    Args:
        size: side of the square, in pixels.
        image_key: entry of the image (1 or 3, H, W).
        mask_key: entry of the mask (1, H, W).
        box_key: entry of the box or boxes (..., 4).
    """

    def __init__(self, size: int, image_key: str = "image", mask_key: str = "label", box_key: str = "box") -> None:
        self.resize = ResizeLongestSide(size)
        self.image_key = image_key
        self.mask_key = mask_key
        self.box_key = box_key

    def __call__(self, data: Any) -> dict[Any, Any]:
        result = dict(data)
        image = result[self.image_key]
        result[self.image_key] = self.resize(image)
        if self.mask_key in result:
            result[self.mask_key] = self.resize.mask(result[self.mask_key])
        if self.box_key in result:
            result[self.box_key] = self.resize.box(result[self.box_key], tuple(image.shape[-2:]))
            result["resized_shape"] = resized_shape(image.shape[-2], image.shape[-1], self.resize.size)
        return result
