"""The dimensions of the SAMs that there are."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SamVariant:
    """The dimensions of a SAM.

    Attributes:
        width: embedding width of the image encoder.
        depth: number of transformer blocks of the image encoder.
        heads: attention heads of a block.
        global_blocks: indices of the blocks that attend over the whole image; the others attend within windows.
        image_size: length of a side of SAM's frame, in pixels, unless another is asked for.
        patch_size: length of a side of a patch, in pixels.
        window_size: length of a side of a window, in patches.
        prompt_width: embedding width of prompts, image embedding and mask decoder.
        decoder_heads: attention heads of the mask decoder.
        decoder_mlp_width: hidden width of the mask decoder's feed-forward layers.
    """

    width: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]
    image_size: int = 1024
    patch_size: int = 16
    window_size: int = 14
    prompt_width: int = 256
    decoder_heads: int = 8
    decoder_mlp_width: int = 2048


VARIANTS = {
    "vit_b": SamVariant(width=768, depth=12, heads=12, global_blocks=(2, 5, 8, 11)),
    "vit_l": SamVariant(width=1024, depth=24, heads=16, global_blocks=(5, 11, 17, 23)),
    "vit_h": SamVariant(width=1280, depth=32, heads=16, global_blocks=(7, 15, 23, 31)),
    # Ours, to run everywhere: heads keep the widths that they have in ViT-B, 64 in the encoder, 16 and 32 in the
    # decoder. More and narrower heads would cost more, since each head carries the relative positions of all rows and
    # columns.
    "vit_mini": SamVariant(
        width=192,
        depth=8,
        heads=3,
        global_blocks=(3, 7),
        image_size=256,
        patch_size=8,
        window_size=8,
        prompt_width=128,
        decoder_heads=4,
        decoder_mlp_width=512,
    ),
}
"""Kirillov et al., Segment Anything, ICCV 2023: ``vit_b``, ``vit_l``, ``vit_h``.

Ours, 4.8 million parameters: ``vit_mini``."""


def variant_with(width: int, depth: int) -> str | None:
    """The name of the variant whose image encoder has this embedding width and number of blocks, or None."""
    return next((name for name, variant in VARIANTS.items() if (variant.width, variant.depth) == (width, depth)), None)
