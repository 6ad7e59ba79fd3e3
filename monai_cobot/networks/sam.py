"""SAM in its published sizes and a small one of ours, built from segment_anything's own modules."""

import warnings
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path

import torch
from torch import nn

from monai_cobot.networks._segment_anything import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from monai_cobot.networks.attention import set_attention
from monai_cobot.networks.checkpoint import load_checkpoint, load_into
from monai_cobot.networks.frame import PIXEL_MEAN, PIXEL_STD

WEIGHTS_FOLDER = Path(__file__).parent / "weights"
"""Where the weights that come with the package lie, as ``<variant>.safetensors``."""


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
    # Ours, to run everywhere: heads keep the widths that they have in ViT-B, 64 in the encoder, 16 and 32 in the decoder. More and
    # narrower heads would cost more, since each head carries the relative positions of all rows and columns.
    "vit_mini": SamVariant(
        width=192,
        depth=10,
        heads=3,
        global_blocks=(2, 5, 7, 9),
        image_size=256,
        patch_size=8,
        window_size=8,
        prompt_width=128,
        decoder_heads=4,
        decoder_mlp_width=512,
    ),
}
"""Kirillov et al., Segment Anything, ICCV 2023: ``vit_b``, ``vit_l``, ``vit_h``. Ours, about 5 million parameters: ``vit_mini``."""


def build_sam(variant: str, checkpoint: str | PathLike[str] | None = None, image_size: int | None = None) -> Sam:
    """Build a SAM from segment_anything's modules, with their state-dict keys and with fused attention.

    Without a checkpoint, the weights that come with the package are taken (``vit_mini``). Where there are none, the weights are
    random, the same in every call, and leave the global random state as it was.

    Args:
        variant: a name in ``VARIANTS``.
        checkpoint: a file with weights of this variant, as ``load_checkpoint`` reads them.
        image_size: length of a side of SAM's frame in pixels, a multiple of the variant's patch size; the variant's own if None.
            For another size than the checkpoint's, its position embeddings are resized (``load_into``).

    Returns:
        The SAM in evaluation mode, in float32 on the CPU.

    Raises:
        ValueError: the variant is unknown, the image size does not fit, or the checkpoint is not one of this variant.
        FileNotFoundError: there is no such checkpoint.
    """
    if variant not in VARIANTS:
        raise ValueError(f"Unknown SAM variant {variant!r}: expected one of {', '.join(VARIANTS)}.")
    dimensions = VARIANTS[variant]
    size = dimensions.image_size if image_size is None else image_size
    if size < 1 or size % dimensions.patch_size:
        raise ValueError(
            f"Image size {size} does not fit {variant}: expected a positive multiple of {dimensions.patch_size} pixels."
        )

    packaged = WEIGHTS_FOLDER / f"{variant}.safetensors"
    if checkpoint is None and packaged.exists():
        checkpoint = packaged
    if checkpoint is not None:
        # on the meta device, no time is lost on initial values that the checkpoint replaces
        with torch.device("meta"):
            sam = _assemble(dimensions, size)
        load_into(sam, load_checkpoint(checkpoint))
    else:
        if variant != "vit_mini":
            warnings.warn(
                f"{variant} was built without a checkpoint: its weights are random, and what it segments means nothing "
                "before it is trained. Pass the checkpoint file of the official SAM or of MedSAM.",
                stacklevel=2,
            )
        # torch.manual_seed would also seed the accelerators, whose state fork_rng does not restore here
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.default_generator.manual_seed(0)
            sam = _assemble(dimensions, size)
            nn.init.trunc_normal_(sam.image_encoder.pos_embed, std=0.02)
    set_attention(sam, "fused")
    return sam.eval()


def variant_of(sam: Sam) -> str:
    """The name in ``VARIANTS`` of the variant that a SAM's image encoder is.

    Raises:
        ValueError: the encoder has the dimensions of none of them.
    """
    width, depth = sam.image_encoder.patch_embed.proj.out_channels, len(sam.image_encoder.blocks)
    for name, variant in VARIANTS.items():
        if (variant.width, variant.depth) == (width, depth):
            return name
    raise ValueError(
        f"An image encoder of width {width} and depth {depth} is none of {', '.join(VARIANTS)}: build the SAM with build_sam."
    )


def _assemble(dimensions: SamVariant, image_size: int) -> Sam:
    """Put a SAM together as ``segment_anything.build_sam`` does, for any dimensions."""
    grid = image_size // dimensions.patch_size
    return Sam(
        image_encoder=ImageEncoderViT(
            img_size=image_size,
            patch_size=dimensions.patch_size,
            embed_dim=dimensions.width,
            depth=dimensions.depth,
            num_heads=dimensions.heads,
            mlp_ratio=4,
            out_chans=dimensions.prompt_width,
            qkv_bias=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=dimensions.window_size,
            global_attn_indexes=dimensions.global_blocks,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=dimensions.prompt_width,
            image_embedding_size=(grid, grid),
            input_image_size=(image_size, image_size),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            transformer_dim=dimensions.prompt_width,
            transformer=TwoWayTransformer(
                depth=2,
                embedding_dim=dimensions.prompt_width,
                num_heads=dimensions.decoder_heads,
                mlp_dim=dimensions.decoder_mlp_width,
            ),
            num_multimask_outputs=3,
            iou_head_depth=3,
            iou_head_hidden_dim=dimensions.prompt_width,
        ),
        pixel_mean=[255 * mean for mean in PIXEL_MEAN],
        pixel_std=[255 * std for std in PIXEL_STD],
    )
