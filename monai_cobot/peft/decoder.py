"""How the mask decoder takes part in fine-tuning, whatever the method in the encoder."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from monai_cobot.networks._segment_anything import Sam

from .lora import LowRankLinear
from .method import AdaptedModule

DECODER_MODES = ("full", "frozen", "lora")
DECODER_RANK = 4


def low_rank_decoder(sam: Sam) -> Iterator[tuple[str, AdaptedModule]]:
    """LoRA of rank 4 on every linear layer of the mask decoder's transformer, for adapter files of a megabyte.

    A layer of D_in -> D_out takes 4 * (D_in + D_out) parameters; SAM's decoder (width 256) takes 83,968 in all, where
    training it whole takes 4,058,340.
    """
    for name, module in sam.mask_decoder.transformer.named_modules():
        if isinstance(module, nn.Linear):
            update = {"update": (0, module.out_features)}
            yield f"mask_decoder.transformer.{name}", LowRankLinear(module, DECODER_RANK, update)
