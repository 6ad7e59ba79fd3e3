"""BitFit: the biases alone (Ben Zaken et al., BitFit: Simple Parameter-efficient Fine-tuning, ACL 2022)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from monai_cobot.networks._segment_anything import Sam

from .blocks import last_parts
from .method import Method, register


@register("bitfit")
@dataclass(frozen=True)
class BitFit(Method):
    """SAM's own biases in the image encoder are trained, nothing is added and nothing costs more at inference.

    A block of width D has 11*D of them (norm1 D, qkv 3*D, proj D, norm2 D, MLP 4*D + D), the patch embedding D and the
    neck of width C two times C. With N blocks that is 11*N*D + D + 2*C: 102,656 on ViT-B.

    Args:
        blocks: N, only the last so many blocks and the neck are trained; None for all and the patch embedding, as in
            the paper.
    """

    blocks: int | None = None

    def unfrozen(self, sam: Sam) -> Iterator[str]:
        """Every bias of the encoder, or of its last part."""
        for part in last_parts(sam, self.blocks):
            for name, _ in sam.get_submodule(part).named_parameters():
                if name.endswith("bias"):
                    yield f"{part}.{name}"
