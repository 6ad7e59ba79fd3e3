"""SAM-Adapter: prompts from the image in front of every block (Chen et al., SAM-Adapter, ICCV 2023 workshops).

The architecture is that of Liu et al., Explicit Visual Prompting for Low-Level Structure Segmentations, CVPR 2023.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_cobot.networks._segment_anything import Block, PatchEmbed, Sam
from monai_cobot.networks.block import attention_half, feed_forward_half
from monai_cobot.networks.encoder import use_own_encoder

from .bottleneck import DownProjection, zero_linear
from .method import AdaptedModule, Method, register, require_whole

NOT_MERGEABLE = (
    "SAM-Adapter cannot be merged into SAM's weights: its prompts depend on the image. "
    "Keep the adapter beside SAM; fold() takes COBOT's share of the cost away."
)


def high_frequencies(images: Tensor, mask_ratio: float) -> Tensor:
    """The high-frequency component of images: |F^-1((1 - M) F(x))|, with a mask M around the zero frequency (EVP, 3.1).

    Args:
        images: (B, C, H, W).
        mask_ratio: tau, the share of the frequencies that M takes away, the lowest, in [0, 1].

    Returns:
        (B, C, H, W), not negative.
    """
    height, width = images.shape[-2:]
    half = int((height * width * mask_ratio) ** 0.5 // 2)
    rows, columns = (
        torch.fft.fftfreq(length, 1 / length, device=images.device) for length in (height, width)
    )  # frequencies in whole waves an image, from -length / 2 on
    masked = _lowest(rows, half).unsqueeze(1) & _lowest(columns, half)
    spectrum = torch.fft.fft2(images.float()).masked_fill(masked, 0)  # the transform wants float32
    return torch.fft.ifft2(spectrum).real.abs().to(images.dtype)


def _lowest(frequencies: Tensor, half: int) -> Tensor:
    """Which of the frequencies along an axis lie in a window of 2 * half around zero."""
    return (frequencies >= -half) & (frequencies < half)


class PromptingPatchEmbed(AdaptedModule):
    """The patch embedding, with the features of which prompts are made in further channels.

    The features are F = F_hfc + F_pe: a patch embedding of the high frequencies, and a linear map of the tokens (EVP,
    Eq. 4-5). Channels are how they reach the blocks, so that a block depends on nothing but its input.

    Args:
        patch_embed: its parameters are shared, not copied.
        bottleneck: V, the width of the features.
        mask_ratio: as in :func:`high_frequencies`.
    """

    not_mergeable = NOT_MERGEABLE

    def __init__(self, patch_embed: PatchEmbed, bottleneck: int, mask_ratio: float) -> None:
        super().__init__()
        self.proj = proj = patch_embed.proj
        self.high_frequency = nn.Conv2d(proj.in_channels, bottleneck, proj.kernel_size, proj.stride)
        self.embedding = nn.Linear(proj.out_channels, bottleneck)
        self.up = zero_linear(bottleneck, proj.out_channels, bias=True)
        self.mask_ratio = mask_ratio

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, h, w, D + V)."""
        tokens = self.proj(x).permute(0, 2, 3, 1)  # (B, h, w, D)
        features = self.high_frequency(high_frequencies(x, self.mask_ratio)).permute(0, 2, 3, 1)  # (B, h, w, V)
        return torch.cat((tokens, features + self.embedding(tokens)), dim=-1)


class PromptedBlock(AdaptedModule):
    """A block of SAM's encoder with a prompt added to its input: x + up(gelu(tune(F))) (EVP, Eq. 6).

    Args:
        block: its parameters are shared, not copied.
        up: the map from V to D that all blocks share; it belongs to the patch embedding.
        last: whether the features end here.
    """

    not_mergeable = NOT_MERGEABLE

    def __init__(self, block: Block, up: nn.Linear, last: bool) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = block.norm1, block.attn, block.norm2, block.mlp
        self.window_size = block.window_size
        self.tune = DownProjection(up.in_features, up.in_features, bias=True)
        self._up = (up,)  # a tuple: as a child, every block would save it
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, D + V) -> the same shape, or (B, H, W, D) behind the last block."""
        up = self._up[0]
        tokens, features = x.split((up.out_features, up.in_features), dim=-1)
        tokens = attention_half(self, tokens + up(F.gelu(self.tune(features))))
        tokens = feed_forward_half(self, tokens)
        return tokens if self.last else torch.cat((tokens, features), dim=-1)

    def slots(self) -> tuple[DownProjection, ...]:
        """The map of the features that the block has for itself."""
        return (self.tune,)


@register("sam_adapter")
@dataclass(frozen=True)
class SamAdapter(Method):
    """Prompts from the image's high frequencies and patch embedding, added to the input of every block.

    With N blocks of width D, patches of P pixels: patch embedding of the high frequencies 3*P^2*V + V, map of the
    tokens D*V + V, one map a block V^2 + V, and the shared map V*D + D, so
    3*P^2*V + 2*D*V + D + 2*V + N * (V^2 + V) in all: 63,312 on ViT-B. Slots for COBOT: one a block.

    The authors' code starts the shared map at random; here it starts at zero, so that SAM is unchanged at the start.

    Args:
        bottleneck: V, the width of the features; the authors have D / 32.
        mask_ratio: the share of the frequencies, the lowest, that count as low.

    Raises:
        ValueError: if an option is out of its range.
    """

    bottleneck: int = 24
    mask_ratio: float = 0.25

    def __post_init__(self) -> None:
        require_whole("SAM-Adapter's bottleneck", self.bottleneck)
        if not 0 <= self.mask_ratio < 1:
            raise ValueError(f"SAM-Adapter's mask_ratio must lie in [0, 1), got {self.mask_ratio}.")

    def replacements(self, sam: Sam) -> Iterator[tuple[str, AdaptedModule]]:
        """The patch embedding and every block."""
        use_own_encoder(sam)  # segment_anything's own adds positions to tokens alone
        encoder = sam.image_encoder
        patch_embed = PromptingPatchEmbed(encoder.patch_embed, self.bottleneck, self.mask_ratio)
        yield "image_encoder.patch_embed", patch_embed
        for index, block in enumerate(encoder.blocks):
            last = index == len(encoder.blocks) - 1
            yield f"image_encoder.blocks.{index}", PromptedBlock(block, patch_embed.up, last)
