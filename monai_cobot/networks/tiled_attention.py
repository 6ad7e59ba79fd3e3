"""Exact attention with SAM's decomposed relative positions for CPUs: tile by tile, forward and backward."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

TILE_PAIRS = 2**21
"""Pairs of tokens whose bias is held at a time: 8 MB in float32, which stays in a processor's cache."""

Tile = tuple[slice, slice]


class TiledAttention(torch.autograd.Function):
    """softmax(s q k^T + row_bias + column_bias) v, of which no more than a tile of token pairs exists at a time.

    A tile is a range of heads and of rows of queries with all keys. Forward, its bias is written into one buffer, used
    by all tiles, and handed as a mask to torch's fused kernel. That kernel has no gradient for a mask, so the backward
    pass computes the tile's probabilities again from the logarithm of their denominators, as flash attention does (Dao
    et al., NeurIPS 2022, algorithm 4), and sums the gradient of the logits over key columns and key rows:

        P = exp(s q k^T + bias - log sum exp)      dV = P^T dO      dS = P (dO V^T - sum(dO O))
        dQ = s dS K      dK = s dS^T Q      d row_bias = sum of dS over key columns      d column_bias = over key rows
    """

    @staticmethod
    def forward(
        context: Any, q: Tensor, k: Tensor, v: Tensor, row_bias: Tensor, column_bias: Tensor, scale: float
    ) -> Tensor:
        """Attend.

        Args:
            context: autograd's.
            q: (B, heads, H, W, D), float32.
            k: of the shape of q.
            v: of the shape of q.
            row_bias: (B, heads, H, W, H), what is added to the logit of a query and a key by the key's row.
            column_bias: (B, heads, H, W, W), the same by the key's column.
            scale: s.

        Returns:
            (B, heads, H W, D).
        """
        batch, _, height, width, depth = q.shape
        # rows of keys that lie apart in memory cost more than copying them
        k, v = (x.flatten(0, 1).flatten(1, 2).contiguous() for x in (k, v))  # (B heads, H W, D)
        q, row_bias, column_bias = (x.flatten(0, 1) for x in (q, row_bias, column_bias))  # (B heads, H, W, ...)
        out = torch.empty(q.shape, dtype=q.dtype)
        log_sums = q.new_empty(q.shape[:3])
        buffer = _buffer(q)
        for tile in _tiles(q):
            bias = _bias(row_bias[tile], column_bias[tile], buffer)
            heads = tile[0]
            attended, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                q[tile].flatten(1, 2).unsqueeze(0),
                k[heads].unsqueeze(0),
                v[heads].unsqueeze(0),
                attn_mask=bias.unsqueeze(0),
                scale=scale,
            )
            out[tile] = attended[0].unflatten(1, (-1, width))
            log_sums[tile] = log_sum[0].unflatten(1, (-1, width))
        context.save_for_backward(q, k, v, row_bias, column_bias, out, log_sums)
        context.scale = scale
        return out.view(batch, -1, height * width, depth)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients with regard to all five tensors, from (B, heads, H W, D)."""
        q, k, v, row_bias, column_bias, out, log_sums = context.saved_tensors
        batch = len(gradient)
        gradient = gradient.reshape(q.shape)
        row_bias = row_bias - log_sums.unsqueeze(-1)  # probabilities are then the exponential alone
        mean = (gradient * out).sum(-1, keepdim=True)  # (B heads, H, W, 1)
        d_q = torch.empty(q.shape, dtype=q.dtype)
        d_row, d_column = torch.empty_like(row_bias), torch.empty_like(column_bias)
        d_k, d_v = torch.zeros_like(k), torch.zeros_like(v)
        buffer, other_buffer = _buffer(q), _buffer(q)
        for tile in _tiles(q):
            heads = tile[0]
            q_tile, gradient_tile = q[tile].flatten(1, 2), gradient[tile].flatten(1, 2)  # (heads, queries, D)
            p = _bias(row_bias[tile], column_bias[tile], buffer)  # (heads, queries, H W)
            p.baddbmm_(q_tile, k[heads].mT, alpha=context.scale).exp_()
            d_v[heads].baddbmm_(p.mT, gradient_tile)
            d_s = torch.bmm(gradient_tile, v[heads].mT, out=other_buffer[: p.numel()].view(p.shape))
            d_s.sub_(mean[tile].flatten(1, 2)).mul_(p)
            d_q[tile] = torch.bmm(d_s, k[heads]).mul_(context.scale).view(d_q[tile].shape)
            d_k[heads].baddbmm_(d_s.mT, q_tile, alpha=context.scale)
            by_place = d_s.view(*d_row[tile].shape, -1)  # (heads, rows, W, H, W)
            torch.sum(by_place, -1, out=d_row[tile])
            torch.sum(by_place, -2, out=d_column[tile])
        d_k, d_v = d_k.view(q.shape), d_v.view(q.shape)
        return *(x.unflatten(0, (batch, -1)) for x in (d_q, d_k, d_v, d_row, d_column)), None


def _tiles(q: Tensor) -> Iterator[Tile]:
    """Ranges of heads and of rows of queries (N, H, W, D) with at most ``TILE_PAIRS`` pairs, at least one row each."""
    heads, height, width, _ = q.shape
    pairs_of_row = width * height * width
    rows = min(height, max(1, TILE_PAIRS // pairs_of_row))
    together = max(1, TILE_PAIRS // (height * pairs_of_row))
    for head in range(0, heads, together):
        for row in range(0, height, rows):
            yield slice(head, head + together), slice(row, row + rows)


def _buffer(q: Tensor) -> Tensor:
    """Room for the pairs of the largest tile of queries (N, H, W, D)."""
    heads, height, width, _ = q.shape
    pairs_of_row = width * height * width
    return q.new_empty(min(heads * height * pairs_of_row, max(TILE_PAIRS, pairs_of_row)))


def _bias(row_bias: Tensor, column_bias: Tensor, buffer: Tensor) -> Tensor:
    """The bias of all pairs of a tile, (heads, rows, W, H or W) each -> (heads, rows W, H W) in the buffer."""
    heads, rows, width, height = row_bias.shape
    bias = buffer[: row_bias.numel() * width].view(heads, rows, width, height, width)
    torch.add(row_bias.unsqueeze(-1), column_bias.unsqueeze(-2), out=bias)
    return bias.view(heads, rows * width, height * width)
