"""SAM-PARSER: singular values alone (Peng et al., SAM-PARSER: Fine-tuning SAM Efficiently, AAAI 2024)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from monai_cobot.networks._segment_anything import Sam

from .merging import AdaptedLayer
from .method import AdaptedModule, Method, register


class TrainedSingularValues(AdaptedLayer):
    """A layer whose weight is decomposed, W = U diag(s) V^T, and of which s alone is trained.

    Computed as W + U diag(s - s_0) V^T with the initial values s_0, which at the start is W to the last bit. U, V and
    s_0 follow from W and are not saved.

    Args:
        layer: a convolution or a linear layer. Its weight counts as a matrix (C_out, C_in * kernel), so that there are
            min(C_out, C_in * kernel) singular values.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__(layer)
        matrix = layer.weight.detach().flatten(1)
        # in double precision: U and V are not saved, and have to be the same wherever an adapter is loaded
        decomposed = torch.linalg.svd(matrix.double(), full_matrices=False)
        left, values, right = (part.to(torch.promote_types(matrix.dtype, torch.float32)) for part in decomposed)
        self.register_buffer("left", left, persistent=False)  # U (C_out, R)
        self.register_buffer("initial_values", values, persistent=False)  # s_0 (R,)
        self.register_buffer("right", right, persistent=False)  # V^T (R, C_in * kernel)
        self.singular_values = nn.Parameter(values.clone())

    def forward(self, x: Tensor) -> Tensor:
        """As the layer's."""
        weight = self.weight if self.merged else self.merged_parameters()["weight"]
        return self.run_layer(x, weight, self.bias)

    def merged_parameters(self) -> dict[str, Tensor]:
        """W + U diag(s - s_0) V^T."""
        change = self.get_buffer("left") * (self.singular_values - self.get_buffer("initial_values"))
        return {"weight": self.weight + (change @ self.get_buffer("right")).view_as(self.weight)}


@register("sam_parser")
@dataclass(frozen=True)
class SamParser(Method):
    """The singular values of the image encoder's convolutions are trained, nothing is added.

    The neck's two convolutions of width C have 2*C: 512 on ViT-B, the paper's count. The patch embedding of width D
    adds D (1,280 in all), the four linear layers of each of N blocks 4*N*D (36,864 on ViT-B).

    Adapt and load in float32, and merge before ``sam.half()``: in half precision s and s_0 are rounded before one is
    taken from the other, and changes of 1 % err by a thirtieth of themselves in float16, by a fifth in bfloat16.
    Autocast leaves both as they are.

    Args:
        patch_embed: the patch embedding too.
        linears: every linear layer of the blocks too. Decomposing them takes a while.
    """

    patch_embed: bool = False
    linears: bool = False

    def replacements(self, sam: Sam) -> Iterator[tuple[str, AdaptedModule]]:
        """The neck's convolutions, and what else is asked for."""
        for name, layer in sam.image_encoder.named_modules():
            part = name.partition(".")[0]
            wanted = {"neck": True, "patch_embed": self.patch_embed, "blocks": self.linears}.get(part, False)
            if wanted and isinstance(layer, (nn.Conv2d, nn.Linear)):
                yield f"image_encoder.{name}", TrainedSingularValues(layer)
