"""The image encoder through ``torch.compile``."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_cobot.networks._segment_anything import ImageEncoderViT
from monai_cobot.networks.backends.choice import BackendError
from monai_cobot.networks.precision import autocast_to


class CompiledEncoder:
    """An image encoder compiled by inductor, with its weights as constants in the layout that its kernels want.

    Compiles when it is made, so that a missing compiler shows at once.

    Args:
        encoder: with or without adapters, in evaluation mode; stays as it is.
        dtype: the type in which products are computed, float32 or bfloat16.

    Raises:
        BackendError: it cannot be compiled here.
    """

    def __init__(self, encoder: ImageEncoderViT, dtype: torch.dtype) -> None:
        self._compiled = torch.compile(encoder, dynamic=False, options={"freezing": True})
        self._weight = encoder.pos_embed
        self._dtype = dtype
        try:
            self(self._weight.new_zeros(1, 3, encoder.img_size, encoder.img_size))
        except Exception as error:  # dynamo, inductor and the compiler each have their own
            raise BackendError(
                f"torch.compile cannot compile the image encoder here ({str(error).strip().partition(chr(10))[0]}). On "
                "a CPU it needs a C++ compiler; or choose another backend."
            ) from error

    @torch.no_grad()
    def __call__(self, image: Tensor) -> Tensor:
        """Normalised image (1, 3, size, size) -> its embedding (1, C, h, w)."""
        with autocast_to(self._dtype, image.device):
            embedding: Tensor = self._compiled(image.to(self._weight.dtype))
        return embedding
