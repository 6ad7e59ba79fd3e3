"""LoRA: low-rank updates of linear layers (Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2022)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_cobot.networks._segment_anything import Sam

from .blocks import last_blocks
from .bottleneck import DownProjection, zero_linear
from .merging import MergeableModule
from .method import AdaptedModule, Method, register, require_whole


class LowRankUpdate(nn.Module):
    """The factors of the update up(down(x)) of one projection, (..., D_in) -> (..., D_out), zero at the start.

    They are not called: :class:`LowRankLinear` applies the updates of a layer together.

    Args:
        in_features: D_in.
        out_features: D_out.
        rank: r, the width of the bottleneck.
    """

    def __init__(self, in_features: int, out_features: int, rank: int) -> None:
        super().__init__()
        self.down = DownProjection(in_features, rank, bias=False)
        self.up = zero_linear(rank, out_features, bias=False)


class LowRankLinear(MergeableModule):
    """A linear layer of which some ranges of outputs have a low-rank update: y = W x + b + [up_n(down_n(x))]_n.

    The layer's ``weight`` and ``bias`` keep their names; the updates are children named as in ``targets``.

    Args:
        linear: the layer to adapt; its parameters are shared, not copied.
        rank: r, the width of each update's bottleneck.
        targets: name of an update -> (first, one past the last) output that it updates, in ascending order.
    """

    pointwise = True

    def __init__(self, linear: nn.Linear, rank: int, targets: dict[str, tuple[int, int]]) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.targets = targets
        for name, (first, end) in targets.items():
            self.add_module(name, LowRankUpdate(linear.in_features, end - first, rank))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D_in) -> (..., D_out)."""
        output = F.linear(x, self.weight, self.bias)
        if self.merged:
            return output
        down, up = self._stacked_updates()
        return output + F.linear(F.linear(x, down), up)

    def slots(self) -> tuple[DownProjection, ...]:
        """One bottleneck an update, in the order of the targets."""
        return tuple(update.down for update in self._updates())

    def merged_parameters(self) -> dict[str, Tensor]:
        """W + up @ down."""
        down, up = self._stacked_updates()
        return {"weight": self.weight + up @ down}

    def _updates(self) -> list[LowRankUpdate]:
        return [cast(LowRankUpdate, self.get_submodule(name)) for name in self.targets]

    def _stacked_updates(self) -> tuple[Tensor, Tensor]:
        """All updates as one, (n*r, D_in) and (D_out, n*r): two products a pass instead of two for each update."""
        downs, ups = [], []
        for update, (first, end) in zip(self._updates(), self.targets.values(), strict=True):
            downs.append(update.down.effective()[0])  # (r, D_in)
            ups.append(F.pad(update.up.weight, (0, 0, first, self.out_features - end)))  # (D_out, r)
        return torch.cat(downs), torch.cat(ups, dim=1)


@register("lora")
@dataclass(frozen=True)
class Lora(Method):
    """LoRA on the q and v projections of the image encoder's blocks (the base method of SAM-COBOT's Table 4).

    q <- q + up_q(down_q(x)) and v <- v + up_v(down_v(x)), without bias and scale. On each of N blocks of width D that
    is 4*D*r parameters, so 4*N*D*r in all: 147,456 on ViT-B with rank 4. Slots for COBOT: q_0, v_0, q_1, v_1, ...

    Args:
        rank: r, the width of the bottleneck.
        blocks: N, only the last so many blocks are adapted; None for all, as in the papers.

    Raises:
        ValueError: if the rank is not a positive whole number.
    """

    rank: int = 4
    blocks: int | None = None

    def __post_init__(self) -> None:
        require_whole("LoRA's rank", self.rank)

    def replacements(self, sam: Sam) -> Iterator[tuple[str, AdaptedModule]]:
        """The fused qkv layer of every block that is adapted."""
        for index, block in last_blocks(sam, self.blocks):
            qkv = block.attn.qkv
            width = qkv.in_features
            targets = {"q": (0, width), "v": (2 * width, 3 * width)}
            yield f"image_encoder.blocks.{index}.attn.qkv", LowRankLinear(qkv, self.rank, targets)
