"""Exact fused attention for SAM's image encoder."""

from typing import Literal

from monai_cobot.networks._segment_anything import Attention, Sam


class FusedAttention(Attention):
    """segment_anything's attention with relative positions, computed without the matrix of all logits."""


def set_attention(sam: Sam, kind: Literal["fused", "stock"]) -> None:
    """Switch all blocks of a SAM's image encoder to fused or to segment_anything's own attention, in place."""
    kinds: dict[str, type[Attention]] = {"fused": FusedAttention, "stock": Attention}
    if kind not in kinds:
        raise ValueError(f"Unknown attention {kind!r}: expected 'fused' or 'stock'.")
    for module in sam.image_encoder.modules():
        if type(module) in kinds.values():
            module.__class__ = kinds[kind]
