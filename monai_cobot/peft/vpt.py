"""VPT: learned tokens beside those of the image (Jia et al., Visual Prompt Tuning, ECCV 2022)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_cobot.networks._segment_anything import Attention, Block, Sam, window_partition, window_unpartition
from monai_cobot.networks.attention import relative_positions

from .blocks import last_blocks
from .method import AdaptedModule, Method, register, require_whole


def attend_with_prompts(attention: Attention, prompts: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """SAM's attention over the tokens of a map and over prompts, which have no position.

    A pair in which there is a prompt gets no relative position bias. As in the fused attention, the bias of the others
    is carried in further dimensions of queries and keys.

    Args:
        attention: whose weights are used.
        prompts: (B, P, D).
        tokens: (B, H, W, D).

    Returns:
        What comes out for the prompts (B, P, D) and the tokens (B, H, W, D).
    """
    count, (height, width) = prompts.shape[1], tokens.shape[1:3]
    x = torch.cat((prompts, tokens.flatten(1, 2)), dim=1)  # (B, P + H W, D)
    q, k, v = attention.qkv(x).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    placed = q[:, :, count:].unflatten(2, (height, width))  # (B, heads, H, W, D / heads)
    row_table = relative_positions(attention.rel_pos_h, height).to(q.dtype)  # (H, H, D / heads)
    column_table = relative_positions(attention.rel_pos_w, width).to(q.dtype)
    row_bias = torch.einsum("bnhwd,hkd->bnhwk", placed, row_table)
    column_bias = torch.einsum("bnhwd,wkd->bnhwk", placed, column_table)
    bias = torch.cat((row_bias, column_bias), dim=-1).flatten(2, 3)  # (B, heads, H W, H + W)
    index = torch.arange(height * width, device=x.device)
    place = torch.cat((F.one_hot(index // width, height), F.one_hot(index % width, width)), dim=1).to(q.dtype)

    without_prompts = (0, 0, count, 0)
    q = torch.cat((q * attention.scale, F.pad(bias, without_prompts)), dim=-1)
    k = torch.cat((k, F.pad(place, without_prompts).expand(*k.shape[:2], -1, -1)), dim=-1)
    out = F.scaled_dot_product_attention(q, k, F.pad(v, (0, height + width)), scale=1.0)[..., : v.shape[-1]]
    out = attention.proj(out.transpose(1, 2).flatten(2))  # (B, P + H W, D)
    return out[:, :count], out[:, count:].unflatten(1, (height, width))


class PromptTokenBlock(AdaptedModule):
    """A block of SAM's encoder with P prompts among its tokens.

    In blocks with windows, the prompts join every window. Where they go on to the next block, they are the mean of what
    comes out of an image's windows, as in the authors' code for Swin transformers; they go there in further rows of the
    map, so that a block depends on nothing but its input.

    Args:
        block: its parameters are shared, not copied.
        count: P.
        begins: whether the block brings prompts of its own; otherwise they come from the block before it.
        ends: whether the prompts end here.
        patch: values of a patch of the image, by which VPT scales the prompts' initial values.
    """

    not_mergeable = (
        "VPT cannot be merged into SAM's weights: its prompts are further tokens. Keep the adapter beside SAM."
    )

    def __init__(self, block: Block, count: int, begins: bool, ends: bool, patch: int) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = block.norm1, block.attn, block.norm2, block.mlp
        self.window_size = block.window_size
        self.count = count
        self.prompts: nn.Parameter | None = None
        if begins:
            width = block.norm1.normalized_shape[0]
            bound = math.sqrt(6 / (patch + width))  # as in the authors' code
            self.prompts = nn.Parameter(torch.empty(count, width).uniform_(-bound, bound))
        self.ends = ends

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, D) -> (B, H, W, D), with ceil(P / W) more rows where prompts come or go on."""
        if self.prompts is None:
            x, prompts = _split(x, self.count)
        else:
            prompts = self.prompts.expand(len(x), -1, -1)  # (B, P, D)
        attended_prompts, attended = self._attend(self.norm1(prompts), self.norm1(x))
        x = x + attended
        x = x + self.mlp(self.norm2(x))
        if self.ends:
            return x
        prompts = prompts + attended_prompts
        return _join(x, prompts + self.mlp(self.norm2(prompts)))

    def _attend(self, prompts: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Attention within windows where the block has them, of the shapes of :func:`attend_with_prompts`."""
        if self.window_size == 0:
            return attend_with_prompts(self.attn, prompts, tokens)
        batch, height, width, _ = tokens.shape
        windows, padded = window_partition(tokens, self.window_size)  # (B * number of windows, window, window, D)
        prompts = prompts.repeat_interleave(len(windows) // batch, dim=0)  # (B * number of windows, P, D)
        prompts, windows = attend_with_prompts(self.attn, prompts, windows)
        prompts = prompts.unflatten(0, (batch, -1)).mean(1)
        return prompts, window_unpartition(windows, self.window_size, padded, (height, width))


@register("vpt")
@dataclass(frozen=True)
class Vpt(Method):
    """Prompts, learned tokens, that the tokens of the image attend to.

    Deep (VPT-Deep, Eq. 6): every block has its own, and what comes out of it in their places is left out: the prompts
    are further keys and values in every window. Shallow (VPT-Shallow, Eq. 4-5): they come in at the first block that is
    adapted and go through all that follow. SAM has no class token and its prompts no position; what windows do is said
    at :class:`PromptTokenBlock`. Prompts take part in the softmax from the start: other than with the other methods, a
    fresh adapter changes what SAM computes.

    N*P*D parameters, 92,160 on ViT-B with 10 prompts a block; P*D if shallow, 7,680.

    Args:
        prompts: P, how many prompts.
        deep: deep or shallow.
        blocks: N, prompts come in at the last so many blocks; None for all, as in the paper.

    Raises:
        ValueError: if the number of prompts is not a positive whole number.
    """

    prompts: int = 10
    deep: bool = True
    blocks: int | None = None

    def __post_init__(self) -> None:
        require_whole("VPT's prompts", self.prompts)

    def replacements(self, sam: Sam) -> Iterator[tuple[str, AdaptedModule]]:
        """Every block that is adapted."""
        adapted = last_blocks(sam, self.blocks)
        first, last = adapted[0][0], adapted[-1][0]
        patch = sam.image_encoder.patch_embed.proj.weight[0].numel()
        for index, block in adapted:
            begins, ends = self.deep or index == first, self.deep or index == last
            yield f"image_encoder.blocks.{index}", PromptTokenBlock(block, self.prompts, begins, ends, patch)


def _join(tokens: Tensor, prompts: Tensor) -> Tensor:
    """(B, H, W, D) and (B, P, D) -> (B, H + ceil(P / W), W, D)."""
    width = tokens.shape[2]
    filled = F.pad(prompts, (0, 0, 0, -prompts.shape[1] % width))
    return torch.cat((tokens, filled.unflatten(1, (-1, width))), dim=1)


def _split(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(B, H + ceil(P / W), W, D) -> (B, H, W, D) and (B, P, D)."""
    rows = math.ceil(count / x.shape[2])
    return x[:, :-rows], x[:, -rows:].flatten(1, 2)[:, :count]
