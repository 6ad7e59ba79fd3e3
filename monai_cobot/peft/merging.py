"""Adapted modules whose adapter can become part of SAM's own weights."""

from __future__ import annotations

from abc import abstractmethod
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_cobot.networks._segment_anything import LayerNorm2d

from .method import AdaptedModule


class MergeableModule(AdaptedModule):
    """An adapted module that computes what its original would with other parameters.

    While it is merged, those parameters are in the place of the originals, which are set aside: taking the adapter out
    again is exact.
    """

    def __init__(self) -> None:
        super().__init__()
        self._set_aside: dict[str, nn.Parameter] = {}  # no attributes: those would join the module's parameters

    @abstractmethod
    def merged_parameters(self) -> dict[str, Tensor]:
        """The original's parameters with the adapter in them, by name."""

    @property
    def merged(self) -> bool:
        """Whether the adapter is in the original parameters now."""
        return bool(self._set_aside)

    @torch.no_grad()
    def merge(self) -> None:
        """Put the adapter into the parameters. Merging twice changes nothing."""
        if not self.merged:
            for name, value in self.merged_parameters().items():
                original = self._set_aside[name] = self.get_parameter(name)
                setattr(self, name, nn.Parameter(value, requires_grad=original.requires_grad))

    def unmerge(self) -> None:
        """Put the original parameters back."""
        for name, original in self._set_aside.items():
            merged = self.get_parameter(name)
            original.data = original.data.to(merged.device, merged.dtype)  # SAM may have moved meanwhile
            setattr(self, name, original)
        self._set_aside.clear()


class AdaptedLayer(MergeableModule):
    """A single layer of SAM whose weight and bias keep their names.

    Args:
        layer: a linear layer, convolution or normalisation; its parameters are shared, not copied.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d | nn.LayerNorm | LayerNorm2d) -> None:
        super().__init__()
        self.pointwise = isinstance(layer, (nn.Linear, nn.LayerNorm))
        self._layer = (layer,)  # a tuple: as a child, it would list the parameters a second time
        self.weight = layer.weight
        self.bias = layer.bias

    def run_layer(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What the layer makes of ``x`` with this weight and bias."""
        (layer,) = self._layer
        if isinstance(layer, nn.Linear):
            return F.linear(x, weight, bias)
        if isinstance(layer, nn.Conv2d):
            return F.conv2d(x, weight, bias, layer.stride, layer.padding)
        if isinstance(layer, nn.LayerNorm):
            return F.layer_norm(x, layer.normalized_shape, weight, bias, layer.eps)
        # as segment_anything computes its normalisation of channels, to the last bit
        centred = x - x.mean(1, keepdim=True)
        normalised = centred / torch.sqrt(centred.pow(2).mean(1, keepdim=True) + layer.eps)
        return weight[:, None, None] * normalised + cast(Tensor, bias)[:, None, None]
