"""Full fine-tuning: the costly baseline that parameter-efficient methods are measured against."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from monai_cobot.networks._segment_anything import Sam

from .blocks import last_parts
from .method import Method, register


@register("full")
@dataclass(frozen=True)
class Full(Method):
    """The image encoder is trained itself, nothing is added, as in MedSAM (Ma et al., Nature Communications 2024).

    With N blocks of width D and H heads, patches of P pixels, a map of M x M tokens and a neck of width C: positions
    M^2*D, patch embedding 3*P^2*D + D, a block 12*D^2 + 13*D and its two tables of relative positions
    2 * (2*K - 1) * D/H, with K the length of a window or of the map, and the neck D*C + 9*C^2 + 4*C: 89,670,912 on
    ViT-B at 1024 pixels. An adapter file then holds a whole encoder.

    Args:
        blocks: only the last so many blocks and the neck are trained; None for all, the patch embedding and the
            positions.
    """

    blocks: int | None = None

    def unfrozen(self, sam: Sam) -> Iterator[str]:
        """All parameters of the encoder, or of its last part."""
        if self.blocks is None:
            yield "image_encoder.pos_embed"
        for part in last_parts(sam, self.blocks):
            for name, _ in sam.get_submodule(part).named_parameters():
                yield f"{part}.{name}"
