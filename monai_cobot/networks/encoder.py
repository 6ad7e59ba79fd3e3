"""SAM's image encoder as training wants it: in two parts, and with gradient checkpointing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from monai_cobot.networks._segment_anything import ImageEncoderViT, Sam

_RECOMPUTED = ContextVar("recomputed", default=False)


def is_recomputed() -> bool:
    """Whether a block computes once more, in the backward pass, what gradient checkpointing did not keep.

    What a module notes about a forward pass for the loss is noted already then, and the loss computed.
    """
    return _RECOMPUTED.get()


class ImageEncoder(ImageEncoderViT):
    """segment_anything's image encoder, which can stop at a depth and go on from there.

    Depth says what an image has gone through: 0 the patch embedding and the positions, n the first n blocks too, and
    one more than there are blocks the neck too. Up to the blocks, features are (B, h, w, D); behind the neck, they are
    the image embedding (B, C, h, w). Adapters may carry something along from block to block, in further rows or
    channels, and from the patch embedding on in further channels, which have no positions.

    Attributes:
        gradient_checkpointing: whether blocks in training keep only their input and compute the rest again.
    """

    gradient_checkpointing = False

    def forward(self, x: Tensor, start: int | None = None, end: int | None = None) -> Tensor:
        """Encode normalised images, or go on with their features.

        Args:
            x: images (B, 3, size, size), or features of depth ``start``.
            start: depth of ``x``; None for images.
            end: depth of what is returned; None for the image embedding.
        """
        depth = len(self.blocks)
        end = depth + 1 if end is None else end
        if start is None:
            start = 0
            x = self.patch_embed(x)
            # a convolution's output lies in memory channel by channel, and what is computed of it would too
            x = x.contiguous() + F.pad(self.pos_embed, (0, x.shape[-1] - self.pos_embed.shape[-1]))
        recompute = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        for block in islice(self.blocks, start, min(end, depth)):
            x = _checkpointed(block, x) if recompute else block(x)
        return self.neck(x.permute(0, 3, 1, 2)) if start <= depth < end else x


def use_own_encoder(sam: Sam) -> None:
    """Make segment_anything's encoder in a SAM an :class:`ImageEncoder`, in place.

    Only the class changes, as in torch's lazy modules: parameters, children, hooks and keys stay.
    """
    if type(sam.image_encoder) is ImageEncoderViT:
        sam.image_encoder.__class__ = ImageEncoder


def set_gradient_checkpointing(sam: Sam, enabled: bool) -> None:
    """Switch gradient checkpointing of all blocks of a SAM's image encoder on or off, in place.

    Less memory in training, for one more forward pass of the blocks that have something to train in or before them.
    Blocks that adapters replace before or afterwards are checkpointed too. It takes effect in training mode.

    Args:
        sam: with or without adapters.
        enabled: whether activations are computed again instead of kept.
    """
    use_own_encoder(sam)
    sam.image_encoder.gradient_checkpointing = enabled


def frozen_depth(sam: Sam) -> int:
    """The depth (see :class:`ImageEncoder`) in front of the encoder's first trained weight.

    Training does not change the features of that depth.

    Returns:
        0 where the first block, or what is in front of it, is trained; one more than there are blocks where nothing in
        the encoder is.
    """
    encoder = sam.image_encoder
    if encoder.pos_embed.requires_grad or _is_trained(encoder.patch_embed):
        return 0
    stages = [*encoder.blocks, encoder.neck]
    return next((depth for depth, stage in enumerate(stages) if _is_trained(stage)), len(stages))


def _is_trained(module: torch.nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    """A block's output, of which nothing but the input is kept."""
    if torch.compiler.is_compiling():  # the compiler knows no contexts of others, and no module notes anything in it
        return checkpoint(block, x, use_reentrant=False)
    return checkpoint(block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _recomputing()))


@contextmanager
def _recomputing() -> Iterator[None]:
    before = _RECOMPUTED.set(True)
    try:
        yield
    finally:
        _RECOMPUTED.reset(before)
