"""LST: a small network beside the frozen one (Sung et al., LST: Ladder Side-Tuning, NeurIPS 2022)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from monai_cobot.networks._segment_anything import Block, Sam
from monai_cobot.networks.block import attention_half, feed_forward_half

from .blocks import last_blocks
from .bottleneck import zero_linear
from .method import AdaptedModule, Method, register, require_whole

TEMPERATURE = 0.1


class LadderBlock(AdaptedModule):
    """A frozen block of SAM's encoder, and beside it a small block of the ladder.

    The ladder's block gets mu * down(h) + (1 - mu) * side, with h what comes out of the frozen block, side what comes
    from the ladder's block before it and mu = sigmoid(gate / 0.1) (LST, section 3.1); the first one gets down(h). The
    ladder's state goes on in further channels, so that a block depends on nothing but its input. Behind the last block,
    up(side) is added to h, which then goes into SAM's neck.

    The frozen block computes without a graph: no backward pass goes through it.

    Args:
        block: its parameters are shared, not copied.
        width: S, the ladder's width.
        first: whether the ladder begins here.
        last: whether it ends here.
    """

    not_mergeable = "LST cannot be merged into SAM's weights: it is a network of its own. Keep the adapter beside SAM."

    def __init__(self, block: Block, width: int, first: bool, last: bool) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = block.norm1, block.attn, block.norm2, block.mlp
        self.window_size = block.window_size
        self.features = block.norm1.normalized_shape[0]
        self.down = nn.Linear(self.features, width)
        self.gate = None if first else nn.Parameter(torch.zeros(()))
        size = tuple((len(table) + 1) // 2 for table in (block.attn.rel_pos_h, block.attn.rel_pos_w))
        self.side = Block(
            width,
            num_heads=1,
            norm_layer=partial(nn.LayerNorm, eps=block.norm1.eps),
            use_rel_pos=True,
            window_size=block.window_size,
            input_size=size,
        )
        self.side.attn.__class__ = type(block.attn)  # fused or stock, as SAM's own
        self.up = zero_linear(width, self.features, bias=True) if last else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, D) -> (B, H, W, D), with S more channels between the ladder's first and last block."""
        tokens, side = x[..., : self.features], x[..., self.features :]
        with torch.no_grad():
            tokens = feed_forward_half(self, attention_half(self, tokens))
        rung = self.down(tokens)  # (B, H, W, S)
        if self.gate is not None:
            share = torch.sigmoid(self.gate / TEMPERATURE)
            rung = share * rung + (1 - share) * side
        side = self.side(rung)
        return torch.cat((tokens, side), dim=-1) if self.up is None else tokens + self.up(side)


@register("lst")
@dataclass(frozen=True)
class Lst(Method):
    """A ladder of small transformer blocks beside the image encoder's, which needs no backward pass then.

    The ladder's blocks are SAM's own kind, with the same windows, S wide and of one head. On each of N blocks of width
    D: down D*S + S, the ladder's block 12*S^2 + 13*S and its two tables of relative positions 2 * (2*K - 1) * S, with K
    the length of a window or of the map; N - 1 gates; and up S*D + D: 290,379 on ViT-B at 1024 pixels.

    What differs from the paper: up starts at zero, and what it gives is added to h instead of taking its place, so that
    a fresh ladder leaves what SAM computes as it is. The ladder begins at its first block's output instead of with a
    projection of the embeddings, so that it can stand beside the last blocks alone. SAM's neck normalises behind it
    instead of a norm of its own. Its blocks start at random, not pruned from SAM's.

    Args:
        width: S, the width of the ladder. With 20, an adapter file with a low-rank decoder and seven classes stays
            below 2 MB.
        blocks: N, the ladder stands beside the last so many blocks; None for all, as in the paper.

    Raises:
        ValueError: if the width is not a positive whole number.
    """

    width: int = 20
    blocks: int | None = None

    def __post_init__(self) -> None:
        require_whole("LST's width", self.width)

    def replacements(self, sam: Sam) -> Iterator[tuple[str, AdaptedModule]]:
        """Every block beside which the ladder stands."""
        adapted = last_blocks(sam, self.blocks)
        first, last = adapted[0][0], adapted[-1][0]
        for index, block in adapted:
            ladder = LadderBlock(block, self.width, first=index == first, last=index == last)
            yield f"image_encoder.blocks.{index}", ladder
