"""SSF: scaling and shifting features (Lian et al., Scaling & Shifting Your Features, NeurIPS 2022)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from monai_cobot.networks._segment_anything import LayerNorm2d, Sam

from .blocks import last_parts
from .merging import AdaptedLayer
from .method import AdaptedModule, Method, register


class ScaledAndShifted(AdaptedLayer):
    """A layer with its output scaled and shifted channel by channel: y = scale * layer(x) + shift (SSF, Eq. 5).

    Args:
        layer: a linear layer, convolution or normalisation with a bias.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d | nn.LayerNorm | LayerNorm2d) -> None:
        super().__init__(layer)
        channels = len(self.weight)
        self.channels_last = isinstance(layer, (nn.Linear, nn.LayerNorm))
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C_in) -> (..., C), or (B, C_in, H, W) -> (B, C, h, w)."""
        output = self.run_layer(x, self.weight, self.bias)
        if self.merged:
            return output
        shape = (-1,) if self.channels_last else (-1, 1, 1)
        return output * self.scale.view(shape) + self.shift.view(shape)

    def merged_parameters(self) -> dict[str, Tensor]:
        """scale * W and scale * b + shift (SSF, Eq. 6)."""
        scale = self.scale.view(-1, *(1,) * (self.weight.ndim - 1))
        return {
            "weight": scale * self.weight,
            "bias": torch.addcmul(self.shift, self.scale, self.get_parameter("bias")),
        }


@register("ssf")
@dataclass(frozen=True)
class Ssf(Method):
    """A scale and a shift behind every layer of the image encoder that has a bias to take them up when it is merged.

    A block of width D has 22*D parameters (norm1 2*D, qkv 6*D, proj 2*D, norm2 2*D, MLP 8*D + 2*D), the patch embedding
    2*D and the neck's two normalisations of width C 4*C. With N blocks that is 22*N*D + 2*D + 4*C: 205,312 on ViT-B.

    The paper starts the scales around 1 and the shifts around 0 at random; here they start there exactly.

    Args:
        blocks: N, only the last so many blocks and the neck are adapted; None for all and the patch embedding, as in
            the paper.
    """

    blocks: int | None = None

    def replacements(self, sam: Sam) -> Iterator[tuple[str, AdaptedModule]]:
        """Every layer with a weight and a bias."""
        for part in last_parts(sam, self.blocks):
            for name, layer in sam.get_submodule(part).named_modules():
                if isinstance(layer, (nn.Linear, nn.Conv2d, nn.LayerNorm, LayerNorm2d)) and layer.bias is not None:
                    yield f"{part}.{name}", ScaledAndShifted(layer)
