"""The halves of a transformer block of SAM's image encoder, for modules that put something between or beside them."""

from typing import Any

from torch import Tensor

from monai_cobot.networks._segment_anything import window_partition, window_unpartition


def attention_half(block: Any, x: Tensor) -> Tensor:
    """The first half of a block, x + attention(norm1(x)), within windows where the block has them.

    Args:
        block: has ``norm1``, ``attn`` and ``window_size`` as ``segment_anything.modeling.image_encoder.Block`` has.
        x: (B, H, W, D).

    Returns:
        (B, H, W, D).
    """
    height, width = x.shape[1:3]
    y = block.norm1(x)
    if block.window_size == 0:
        return x + block.attn(y)
    windows, padded = window_partition(y, block.window_size)  # (B * number of windows, window, window, D)
    return x + window_unpartition(block.attn(windows), block.window_size, padded, (height, width))
