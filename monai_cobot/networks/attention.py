"""Exact fused attention for SAM's image encoder."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from monai_cobot.networks._segment_anything import Attention
from monai_cobot.networks.tiled_attention import TILE_PAIRS, TiledAttention

LONG_SEQUENCE = 256
"""Tokens from which the bias is carried in queries and keys. Below (SAM's windows), a mask of all pairs is faster."""


class FusedAttention(Attention):
    """segment_anything's attention with decomposed relative positions, through ``scaled_dot_product_attention``.

    The logit of a query and a key is ``s q.k + q.Rh[row_q - row_k] + q.Rw[column_q - column_k]`` (Li et al., MViTv2,
    CVPR 2022), and there are three exact ways to hand the last two terms over, one number per row and one per column of
    keys for each query:

    * as a mask of all pairs of tokens, where these are few;
    * as a mask of a tile of pairs at a time (:class:`~monai_cobot.networks.tiled_attention.TiledAttention`), in float32
      on a CPU, where the products are what costs;
    * in the product itself, where products are cheap (a GPU, half precision): q' = [s q, q Rh, q Rw] and
      k' = [k, onehot(row_k), onehot(column_k)], so that the logit is q'.k'.

    Memory grows linearly with the tokens, in training too. ``docs/performance.md`` says what each way takes.

    Parameters and children are those of ``Attention``, under the same names. Modules that take the place of ``qkv`` or
    ``proj`` are called as those are.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Attend: (B, H, W, C) -> (B, H, W, C)."""
        return self.proj(self.attend(self.qkv(x)))

    def attend(self, qkv: Tensor) -> Tensor:
        """What lies between ``qkv`` and ``proj``: (B, H, W, 3 C) -> (B, H, W, C)."""
        batch, height, width, _ = qkv.shape
        parts = qkv.reshape(batch, height, width, 3, self.num_heads, -1).permute(3, 0, 4, 1, 2, 5)
        q, k, v = parts.unbind(0)  # (B, heads, H, W, D) each
        row_bias = torch.einsum("bnhwd,hkd->bnhwk", q, relative_positions(self.rel_pos_h, height).to(q.dtype))
        column_bias = torch.einsum("bnhwd,wkd->bnhwk", q, relative_positions(self.rel_pos_w, width).to(q.dtype))
        attended = _attention_form(q)(q, k, v, row_bias, column_bias, self.scale)  # (B, heads, H W, D)
        return attended.transpose(1, 2).reshape(batch, height, width, -1)


def relative_positions(table: Tensor, length: int) -> Tensor:
    """Relative position embeddings of all pairs along one axis: (L, D) -> (length, length, D), queries first.

    A table for another length is interpolated linearly, as ``segment_anything``'s ``get_rel_pos`` does.
    """
    if len(table) != 2 * length - 1:
        table = F.interpolate(table.T.unsqueeze(0), 2 * length - 1, mode="linear").squeeze(0).T
    index = torch.arange(length, device=table.device)
    return table[index.unsqueeze(1) - index + length - 1]


def is_captured() -> bool:
    """Whether a trace or a compiler looks on: a loop over parts of a tensor would be unrolled."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


AttentionForm = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, float], Tensor]
"""Arguments and result of ``TiledAttention``, which all forms share."""


def _attention_form(q: Tensor) -> AttentionForm:
    """The fastest exact form for queries (B, heads, H, W, D): all of them compute the same."""
    tokens = q.shape[2] * q.shape[3]
    in_float32 = q.dtype == torch.float32 and not torch.is_autocast_enabled(q.device.type)
    if in_float32 and q.device.type == "cpu" and not is_captured() and q.shape[0] * q.shape[1] * tokens**2 > TILE_PAIRS:
        return TiledAttention.apply
    return attend_widened if tokens >= LONG_SEQUENCE else attend_masked


def attend_masked(q: Tensor, k: Tensor, v: Tensor, row_bias: Tensor, column_bias: Tensor, scale: float) -> Tensor:
    """Attention with the bias as a mask: q, k, v (B, heads, H, W, D) -> (B, heads, H W, D)."""
    bias = row_bias.contiguous().unsqueeze(-1) + column_bias.contiguous().unsqueeze(-2)  # (B, heads, H, W, H, W)
    q, k, v = (x.flatten(2, 3) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.flatten(4, 5).flatten(2, 3), scale=scale)


def attend_widened(q: Tensor, k: Tensor, v: Tensor, row_bias: Tensor, column_bias: Tensor, scale: float) -> Tensor:
    """Attention with the bias in the head dimension, of the shapes of ``attend_masked``."""
    batch, heads, height, width, head_width = q.shape
    index = torch.arange(height * width, device=q.device)
    rows, columns = torch.arange(height, device=q.device), torch.arange(width, device=q.device)
    one_hot = torch.cat(((index // width).unsqueeze(1) == rows, (index % width).unsqueeze(1) == columns), dim=1)
    widened_q = torch.cat((q * scale, row_bias, column_bias), dim=-1).flatten(2, 3)  # (B, heads, H W, D + H + W)
    widened_k = torch.cat((k.flatten(2, 3), one_hot.to(k.dtype).expand(batch, heads, -1, -1)), dim=-1)
    # the fused kernels want values as wide as the queries and keys
    widened_v = F.pad(v.flatten(2, 3), (0, height + width))
    return F.scaled_dot_product_attention(widened_q, widened_k, widened_v, scale=1.0)[..., :head_width]
