"""AdaptFormer: a bottleneck beside the MLP of every block (Chen et al., NeurIPS 2022)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from monai_cobot.networks._segment_anything import Block, Sam
from monai_cobot.networks.block import attention_half, feed_forward_half

from .blocks import last_blocks
from .bottleneck import DownProjection, zero_linear
from .method import AdaptedModule, Method, register, require_whole


class ParallelBottleneck(nn.Module):
    """x -> scale * up(dropout(relu(down(norm(x))))). (..., D) -> (..., D), zero at the start.

    Args:
        features: D, the width of the tokens.
        bottleneck: V, the width of the bottleneck.
        scale: s, the fixed factor of the output.
        dropout: share of the bottleneck's activations that training drops.
    """

    def __init__(self, features: int, bottleneck: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features)
        self.down = DownProjection(features, bottleneck, bias=True)
        self.up = zero_linear(bottleneck, features, bias=True)
        self.scale = scale
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        z = F.relu(self.down(self.norm(x)))  # (..., V)
        return self.up(F.dropout(z, self.dropout, self.training)) * self.scale


class AdaptFormerBlock(AdaptedModule):
    """A block of SAM's encoder with a bottleneck beside its MLP: y = x' + MLP(norm2(x')) + bottleneck(x').

    x' is the block's state after attention (AdaptFormer, Eq. 3-4).
    """

    not_mergeable = (
        "AdaptFormer cannot be merged into SAM's weights: there is a ReLU in its bottleneck. "
        "Keep the adapter beside SAM; fold() takes COBOT's share of the cost away."
    )

    def __init__(self, block: Block, bottleneck: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = block.norm1, block.attn, block.norm2, block.mlp
        self.window_size = block.window_size
        self.adapter = ParallelBottleneck(block.norm2.normalized_shape[0], bottleneck, scale, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, D) -> (B, H, W, D)."""
        return feed_forward_half(self, attention_half(self, x), self.adapter)

    def slots(self) -> tuple[DownProjection, ...]:
        """The one bottleneck of the block."""
        return (self.adapter.down,)


@register("adaptformer")
@dataclass(frozen=True)
class AdaptFormer(Method):
    """AdaptFormer beside the MLPs of the image encoder's blocks (the second base method of SAM-COBOT's Table 4).

    On each of N blocks of width D: LayerNorm 2D, down D*V + V, up V*D + D, so N * (2*D*V + 3*D + V) in all: 322,752 on
    ViT-B with a bottleneck of 16. Slots for COBOT: one a block.

    Args:
        bottleneck: V, the width of the bottleneck.
        scale: the fixed factor of the bottleneck's output.
        dropout: share of the bottleneck's activations that training drops, in [0, 1).
        blocks: N, only the last so many blocks are adapted; None for all, as in the papers.

    Raises:
        ValueError: if an option is out of its range.
    """

    bottleneck: int = 16
    scale: float = 0.1
    dropout: float = 0.1
    blocks: int | None = None

    def __post_init__(self) -> None:
        require_whole("AdaptFormer's bottleneck", self.bottleneck)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"AdaptFormer's dropout must lie in [0, 1), got {self.dropout}.")

    def replacements(self, sam: Sam) -> Iterator[tuple[str, AdaptedModule]]:
        """Every block that is adapted."""
        for index, block in last_blocks(sam, self.blocks):
            yield (
                f"image_encoder.blocks.{index}",
                AdaptFormerBlock(block, self.bottleneck, self.scale, self.dropout),
            )
