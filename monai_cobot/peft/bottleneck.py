"""The bottleneck that adapters share, with the one place where COBOT enters it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .orchestration import SlotMixing


class DownProjection(nn.Linear):
    """The way into a bottleneck of width V, and an adapter slot of COBOT.

    Alone it is z = x W^T + b. Orchestrated it is z' = z @ M_l, computed as x (M_l^T W)^T + b M_l: mixing the V rows of
    the weight once costs next to nothing, mixing V numbers of every token would not.

    Args:
        in_features: D, the width of the tokens.
        width: V, the width of the bottleneck.
        bias: whether b exists; it starts at zero.
    """

    def __init__(self, in_features: int, width: int, bias: bool) -> None:
        super().__init__(in_features, width, bias)
        self.mixing: SlotMixing | None = None

    def reset_parameters(self) -> None:
        """Kaiming uniform weight (a = sqrt 5), zero bias."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def effective(self) -> tuple[Tensor, Tensor | None]:
        """Weight (V, D) and bias (V,) with the slot's mixing matrix multiplied in."""
        return (self.weight, self.bias) if self.mixing is None else self.mixing()

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        weight, bias = self.effective()
        return F.linear(x, weight, bias)

    @torch.no_grad()
    def fold(self) -> None:
        """Write the mixing into weight and bias: what stays is a plain down projection with the same output."""
        weight, bias = self.effective()
        self.weight.copy_(weight)
        if bias is not None:
            self.bias.copy_(bias)
        self.mixing = None


def zero_linear(in_features: int, out_features: int, bias: bool) -> nn.Linear:
    """The way out of a bottleneck: a linear layer of zeros, so that a fresh adapter changes nothing."""
    linear = nn.Linear(in_features, out_features, bias)
    nn.init.zeros_(linear.weight)
    if bias:
        nn.init.zeros_(linear.bias)
    return linear
