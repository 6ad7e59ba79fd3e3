"""Conv-LoRA: LoRA with convolutions in its bottleneck (Zhong et al., Convolution Meets LoRA, ICLR 2024)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_cobot.networks._segment_anything import Sam
from monai_cobot.networks.encoder import is_recomputed

from .blocks import last_blocks
from .bottleneck import DownProjection, zero_linear
from .method import AdaptedModule, Method, register, require_whole

BALANCING = 0.01  # the paper's weight of the balancing loss
LEAST_NOISE = 0.01


class NoisyTopOneGate(nn.Module):
    """Chooses one of n experts for each feature map (Shazeer et al., Outrageously Large Neural Networks, ICLR 2017).

    Logits are g W_g of the globally pooled map g; in training, noise of the size softplus(g W_noise) + 0.01 is added to
    them, as in the authors' code: it never vanishes.

    Args:
        width: r, the channels of a map.
        experts: n.
    """

    def __init__(self, width: int, experts: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, experts))
        self.noise = nn.Parameter(torch.zeros(width, experts))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Choose.

        Args:
            z: (B, r, H, W).

        Returns:
            The expert of each map (B,), the probability that the gate gives it (B,), and the differentiable estimate of
            how probably each expert is chosen for each map (B, n), which in evaluation is 0 or 1.
        """
        with torch.autocast(z.device.type, enabled=False):
            pooled = z.mean((2, 3)).to(self.weight.dtype)  # (B, r)
            clean = pooled @ self.weight  # (B, n)
            if not self.training:
                chosen = clean.argmax(1)
                return chosen, _pick(clean.softmax(1), chosen), F.one_hot(chosen, clean.shape[1]).to(clean)
            deviation = F.softplus(pooled @ self.noise) + LEAST_NOISE
            noisy = clean + deviation * torch.randn_like(clean)
            best = noisy.topk(2, dim=1)
            chosen = best.indices[:, 0]
            # an expert is chosen where it beats the best of the others, whatever its own noise was
            best_other = torch.where(noisy == best.values[:, :1], best.values[:, 1:], best.values[:, :1])
            load = torch.special.ndtr((clean - best_other) / deviation)
            return chosen, _pick(noisy.softmax(1), chosen), load


class ScaleExperts(nn.Module):
    """z -> what one of n experts, chosen by a gate, makes of z. (B, r, H, W) -> (B, r, H, W).

    Expert e in 1..n enlarges z e times (bicubic), applies a 3x3 convolution r -> r and GELU, and shrinks the result to
    (H, W) again (Conv-LoRA, section 3.2): each looks at another scale.

    Args:
        width: r.
        experts: n, at least 2.
        multiply_by_gate: whether the gate's probability multiplies the expert's output, so that the gate learns from
            the task.
    """

    def __init__(self, width: int, experts: int, multiply_by_gate: bool) -> None:
        super().__init__()
        self.gate = NoisyTopOneGate(width, experts)
        convolutions = [nn.Conv2d(width, width, 3, padding=1) for _ in range(experts)]
        for convolution in convolutions:
            nn.init.zeros_(cast(Tensor, convolution.bias))
        self.convolutions = nn.ModuleList(convolutions)
        self.multiply_by_gate = multiply_by_gate

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(B, r, H, W) -> the same shape, and the balancing loss, a scalar."""
        chosen, probability, load = self.gate(z)
        height, width = z.shape[-2:]
        rows, outputs = [], []
        # Experts that no map chose take part with no maps: gradients, traces and processes all see the same graph.
        for index, convolution in enumerate(self.convolutions):
            rows.append((chosen == index).nonzero()[:, 0])
            scale = index + 1
            y = F.interpolate(z[rows[-1]], (scale * height, scale * width), mode="bicubic")
            y = F.interpolate(F.gelu(convolution(y)), (height, width), mode="bicubic")
            outputs.append(y.to(z.dtype))
        output = torch.cat(outputs)[torch.cat(rows).argsort()]  # in the order of z again

        gates = F.one_hot(chosen, len(self.convolutions)).to(load)  # (B, n)
        if self.multiply_by_gate:
            output = output * probability.to(z.dtype).view(-1, 1, 1, 1)
            gates = gates * probability.unsqueeze(1)
        balance = _squared_variation(gates.sum(0)) + _squared_variation(load.sum(0))
        return output, BALANCING * balance


class ConvolutionalLowRankLinear(AdaptedModule):
    """A linear layer over maps with Conv-LoRA beside it: y = W x + b + (alpha / r) * (z + expert(z)) B^T, z = x A^T.

    Args:
        linear: the layer to adapt; its parameters are shared, not copied.
        rank: r.
        alpha: alpha.
        experts: n.
        multiply_by_gate: as in :class:`ScaleExperts`.
    """

    not_mergeable = (
        "Conv-LoRA cannot be merged into SAM's weights: what its experts add to a token depends on the tokens around "
        "it. Keep the adapter beside SAM; fold() takes COBOT's share of the cost away."
    )

    def __init__(self, linear: nn.Linear, rank: int, alpha: float, experts: int, multiply_by_gate: bool) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.down = DownProjection(linear.in_features, rank, bias=False)
        self.experts = ScaleExperts(rank, experts, multiply_by_gate)
        self.up = zero_linear(rank, linear.out_features, bias=False)
        self.scale = alpha / rank
        self._balance: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, D_in) -> (B, H, W, D_out), where B counts windows in blocks that have them."""
        z = self.down(x).permute(0, 3, 1, 2)  # (B, r, H, W)
        seen, balance = self.experts(z)
        if not is_recomputed():  # a second graph of the same pass would be kept until the next one
            self._balance = balance if self.training else None
        update = self.up((z + seen).permute(0, 2, 3, 1)) * self.scale
        if self.training:
            # no change, but data-parallel training looks among the outputs for what a pass has used
            update = update + 0 * balance.to(update.dtype)
        return F.linear(x, self.weight, self.bias) + update

    def slots(self) -> tuple[DownProjection, ...]:
        """The one bottleneck, in front of the experts."""
        return (self.down,)

    def auxiliary_loss(self) -> Tensor | None:
        """The balancing loss of the last forward pass in training, a scalar; None after one in evaluation."""
        return self._balance

    def __getstate__(self) -> dict[str, Any]:
        # The loss belongs to one forward pass and its graph: a copy or a pickle starts without it.
        return {**self.__dict__, "_balance": None}


@register("conv_lora")
@dataclass(frozen=True)
class ConvLora(Method):
    """Conv-LoRA on the fused qkv layer of the image encoder's blocks.

    In blocks with windows, the gate chooses an expert for each window. ``auxiliary_loss()`` is the balancing loss,
    0.01 * (CV^2(importance) + CV^2(load)), summed over the blocks; CV is the coefficient of variation over the experts,
    importance what the gate multiplies each by, summed over the maps of the pass. Processes that train together each
    balance their own maps.

    On each of N blocks of width D: A and B 4*D*r, gate 2*r*n, experts n * (9*r^2 + r), so
    N * (4*D*r + 2*r*n + n*(9*r^2 + r)) in all: 119,232 on ViT-B. Slots for COBOT: one a block.

    Args:
        rank: r, the width of the bottleneck. COBOT's quaternions need another than the paper's 3, such as 4.
        experts: n, the scales 1..n.
        alpha: the update is multiplied by alpha / r.
        multiply_by_gate: the gate's probability multiplies the expert's output, so that the gate learns from the task;
            False as in the authors' code, where it learns from balancing alone.
        blocks: N, only the last so many blocks are adapted; None for all, as in the paper.

    Raises:
        ValueError: if the rank is not a positive whole number, or there are not two experts.
    """

    rank: int = 3
    experts: int = 8
    alpha: float = 32.0
    multiply_by_gate: bool = True
    blocks: int | None = None

    def __post_init__(self) -> None:
        require_whole("Conv-LoRA's rank", self.rank)
        require_whole("Conv-LoRA's experts", self.experts, least=2)

    def replacements(self, sam: Sam) -> Iterator[tuple[str, AdaptedModule]]:
        """The fused qkv layer of every block that is adapted."""
        for index, block in last_blocks(sam, self.blocks):
            yield (
                f"image_encoder.blocks.{index}.attn.qkv",
                ConvolutionalLowRankLinear(block.attn.qkv, self.rank, self.alpha, self.experts, self.multiply_by_gate),
            )


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """(B, n), (B,) -> (B,)."""
    return values.gather(1, index.unsqueeze(1)).squeeze(1)


def _squared_variation(values: Tensor) -> Tensor:
    """The squared coefficient of variation of (n,), a scalar."""
    return values.var() / (values.mean().square() + 1e-10)
