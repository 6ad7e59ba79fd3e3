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
    """The image encoder is trained itself, nothing is added. 89,670,912 parameters on ViT-B at 1024 pixels.

    An adapter file then holds a whole encoder.

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
