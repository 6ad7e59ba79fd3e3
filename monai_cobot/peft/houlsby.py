"""The adapter of Houlsby et al., Parameter-Efficient Transfer Learning for NLP, ICML 2019."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from monai_cobot.networks._segment_anything import Sam

from .blocks import last_blocks
from .bottleneck import DownProjection, zero_linear
from .method import AdaptedModule, Method, register, require_whole


class LinearThenBottleneck(AdaptedModule):
    """A linear layer with a bottleneck behind it: y = W x + b, then y + up(gelu(down(y))). (..., D_in) -> (..., D).

    Args:
        linear: the layer to adapt; its parameters are shared, not copied.
        bottleneck: V, the width of the bottleneck.
    """

    pointwise = True
    not_mergeable = (
        "Houlsby's adapter cannot be merged into SAM's weights: there is a GELU in its bottleneck. "
        "Keep the adapter beside SAM; fold() takes COBOT's share of the cost away."
    )

    def __init__(self, linear: nn.Linear, bottleneck: int) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.down = DownProjection(linear.out_features, bottleneck, bias=True)
        self.up = zero_linear(bottleneck, linear.out_features, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D_in) -> (..., D)."""
        y = F.linear(x, self.weight, self.bias)
        return y + cast(Tensor, self.up(F.gelu(self.down(y))))

    def slots(self) -> tuple[DownProjection, ...]:
        """The one bottleneck."""
        return (self.down,)


@register("houlsby")
@dataclass(frozen=True)
class Houlsby(Method):
    """A bottleneck behind the attention and one behind the MLP of the image encoder's blocks, before the sums.

    That is behind the last layer of each, ``attn.proj`` and ``mlp.lin2`` (the paper's Figure 2). On each of N blocks of
    width D: two times down D*V + V and up V*D + D, so 2*N * (2*D*V + D + V) in all: 313,536 on ViT-B with a bottleneck
    of 8. Slots for COBOT: two a block, attention and MLP.

    Args:
        bottleneck: V, the width of the bottlenecks.
        blocks: N, only the last so many blocks are adapted; None for all, as in the paper.

    Raises:
        ValueError: if the bottleneck is not a positive whole number.
    """

    bottleneck: int = 8
    blocks: int | None = None

    def __post_init__(self) -> None:
        require_whole("Houlsby's bottleneck", self.bottleneck)

    def replacements(self, sam: Sam) -> Iterator[tuple[str, AdaptedModule]]:
        """The last layers of attention and MLP in every block that is adapted."""
        for index, block in last_blocks(sam, self.blocks):
            name = f"image_encoder.blocks.{index}"
            yield f"{name}.attn.proj", LinearThenBottleneck(block.attn.proj, self.bottleneck)
            yield f"{name}.mlp.lin2", LinearThenBottleneck(block.mlp.lin2, self.bottleneck)
