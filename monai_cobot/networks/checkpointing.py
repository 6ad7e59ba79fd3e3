"""Gradient checkpointing of SAM's image encoder: less memory in training, for one more forward pass."""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from monai_cobot.networks._segment_anything import ImageEncoderViT, Sam


class CheckpointedEncoder(ImageEncoderViT):
    """segment_anything's image encoder, whose blocks keep only their input in training and compute the rest again."""

    def forward(self, x: Tensor) -> Tensor:
        """Encode normalised images: (B, 3, size, size) -> (B, C, h, w)."""
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(x)
        x = self.patch_embed(x) + self.pos_embed
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return self.neck(x.permute(0, 3, 1, 2))


def set_gradient_checkpointing(sam: Sam, enabled: bool) -> None:
    """Switch gradient checkpointing of all blocks of a SAM's image encoder on or off, in place.

    Only the class of the encoder changes, as in torch's lazy modules: parameters, children, hooks and keys stay, and
    blocks that adapters replace before or afterwards are checkpointed too. It takes effect in training mode.

    Args:
        sam: with or without adapters.
        enabled: whether activations are computed again instead of kept.
    """
    sam.image_encoder.__class__ = CheckpointedEncoder if enabled else ImageEncoderViT
