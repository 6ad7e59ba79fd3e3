"""A transformer block of SAM's image encoder, and its halves for modules that put something between or beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from monai_cobot.networks._segment_anything import (
    Attention,
    Block,
    ImageEncoderViT,
    MLPBlock,
    Sam,
    window_partition,
    window_unpartition,
)
from monai_cobot.networks.attention import FusedAttention, is_captured

BAND_TOKENS = 1024
"""Tokens that go through a layer at a time where nothing is kept for a backward pass on a CPU. What lies between two
layers then stays in the cache, and is memory that the process has already: with all 4,096 tokens of ViT-B at 1024
pixels, a twentieth of the time goes into asking the system for new memory."""

_POINTWISE = (nn.Linear, nn.LayerNorm, nn.GELU, nn.ReLU, nn.Dropout, nn.Identity)


class FusedBlock(Block):
    """segment_anything's block, which computes the same with fewer products and less memory.

    Where the block has windows, the products with weights leave out their padding: it is behind them what they make of
    zeros. And without gradients, a CPU takes some rows of the image at a time through what acts on each token alone.

    Parameters and children are those of ``Block``, under the same names.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, D) -> (B, H, W, D)."""
        return feed_forward_half(self, attention_half(self, x))


def set_attention(network: Sam | ImageEncoderViT, kind: Literal["fused", "stock"]) -> None:
    """Switch all blocks of a SAM's image encoder to ours, with fused attention, or to segment_anything's own, in place.

    Only the classes of blocks and attention modules change, as in torch's lazy modules: parameters, children, hooks and
    keys stay.

    Args:
        network: a SAM, or its image encoder alone; with or without adapters.
        kind: ``"fused"`` or ``"stock"``; their outputs are equal up to rounding.

    Raises:
        ValueError: the kind is neither.
    """
    if kind not in ("fused", "stock"):
        raise ValueError(f"Unknown attention {kind!r}: expected 'fused' or 'stock'.")
    wanted = {Block: FusedBlock, Attention: FusedAttention}
    if kind == "stock":
        wanted = {ours: stock for stock, ours in wanted.items()}
    for module in network.modules():
        module.__class__ = wanted.get(type(module), type(module))


def attention_half(block: Any, x: Tensor) -> Tensor:
    """The first half of a block, x + attention(norm1(x)), within windows where the block has them.

    Args:
        block: has ``norm1``, ``attn`` and ``window_size`` as ``segment_anything.modeling.image_encoder.Block`` has.
        x: (B, H, W, D).

    Returns:
        (B, H, W, D), in memory of its own.
    """
    if block.window_size == 0:
        return x + block.attn(block.norm1(x))
    attention = block.attn
    pointwise = _is_pointwise(nn.Sequential(block.norm1, attention.qkv, attention.proj))
    if type(attention) is FusedAttention and pointwise and not is_watched(attention):
        return _by_bands(x, lambda band: band + _attend_in_windows(block, band), block.window_size)
    windows, padded = window_partition(block.norm1(x), block.window_size)  # (B * number of windows, window, window, D)
    return x + window_unpartition(attention(windows), block.window_size, padded, x.shape[1:3])


def feed_forward_half(block: Any, x: Tensor, beside: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """The second half of a block, x + MLP(norm2(x)), and what an adapter has beside the MLP.

    Args:
        block: has ``norm2`` and ``mlp`` as ``segment_anything.modeling.image_encoder.Block`` has.
        x: (B, H, W, D).
        beside: x -> what is added too, of each token alone.

    Returns:
        (B, H, W, D).
    """

    def of_band(band: Tensor) -> Tensor:
        y = band + block.mlp(block.norm2(band))
        return y if beside is None else y + beside(band)

    return _by_bands(x, of_band) if _is_pointwise(nn.Sequential(block.norm2, block.mlp)) else of_band(x)


def _attend_in_windows(block: Any, x: Tensor) -> Tensor:
    """attention(norm1(x)) in windows, (B, H, W, D) -> (B, H, W, D)."""
    height, width = x.shape[1:3]
    size, attention = block.window_size, block.attn
    qkv = attention.qkv(block.norm1(x))
    below, right = -height % size, -width % size
    if below or right:
        padding = attention.qkv(x.new_zeros(1, 1, 1, x.shape[-1])).expand(len(x), height + below, width + right, -1)
        padded = padding.clone()
        padded[:, :height, :width] = qkv
        qkv = padded
    windows, whole = window_partition(qkv, size)  # (B * number of windows, window, window, 3 D)
    return attention.proj(window_unpartition(attention.attend(windows), size, whole, (height, width)))


def _by_bands(x: Tensor, compute: Callable[[Tensor], Tensor], multiple: int = 1) -> Tensor:
    """``compute`` of (B, H, W, D), of a band of rows at a time where that pays; bands begin at multiples of rows."""
    rows = max(1, BAND_TOKENS // x.shape[2] // multiple) * multiple
    whole = len(x) == 1 and rows >= x.shape[1]
    if whole or x.device.type != "cpu" or torch.is_grad_enabled() or is_captured():
        return compute(x)
    out = torch.empty_like(x)
    for image, target in zip(x.split(1), out.split(1), strict=True):
        for start in range(0, x.shape[1], rows):
            target[:, start : start + rows] = compute(image[:, start : start + rows])
    return out


def _is_pointwise(module: nn.Module) -> bool:
    """Whether a module does to each token (..., D) the same, whatever the others are, and nobody looks on.

    What takes the place of a layer says so itself, by an attribute ``pointwise`` (``AdaptedModule``).
    """
    if is_watched(module):
        return False
    if isinstance(module, (nn.Sequential, MLPBlock)):
        return all(_is_pointwise(child) for child in module.children())
    return type(module) in _POINTWISE or getattr(module, "pointwise", False)


def is_watched(module: nn.Module) -> bool:
    """Whether hooks want to see the module called, and with all of the image."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )
