"""Building a SAM of any variant, checkpoint and image size from segment_anything's own modules."""

import warnings
from functools import partial
from os import PathLike
from pathlib import Path

import torch
from torch import nn

from monai_cobot.networks._segment_anything import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from monai_cobot.networks.block import set_attention
from monai_cobot.networks.checkpoint import load_checkpoint, load_into
from monai_cobot.networks.encoder import ImageEncoder, set_gradient_checkpointing
from monai_cobot.networks.frame import PIXEL_MEAN, PIXEL_STD
from monai_cobot.networks.variants import VARIANTS, SamVariant, variant_with

WEIGHTS_FOLDER = Path(__file__).parent / "weights"
"""Where the weights that come with the package lie, as ``<variant>.safetensors``."""

PACKAGED_VARIANT = "vit_mini"
"""The variant whose weights come with this package."""


def build_sam(
    variant: str,
    checkpoint: str | PathLike[str] | None = None,
    image_size: int | None = None,
    gradient_checkpointing: bool = False,
) -> Sam:
    """Build a SAM from segment_anything's modules, with their state-dict keys and with fused attention.

    Without a checkpoint, the weights that come with the package are taken (``vit_mini``). Where there are none, the
    weights are random, the same in every call, and leave the global random state as it was.

    Args:
        variant: a name in ``VARIANTS``.
        checkpoint: a file with weights of this variant, as ``load_checkpoint`` reads them.
        image_size: length of a side of SAM's frame in pixels, a multiple of the variant's patch size; the variant's own
            if None. For another size than the checkpoint's, its position embeddings are resized (``load_into``).
        gradient_checkpointing: less memory in training, for more time (``set_gradient_checkpointing``).

    Returns:
        The SAM in evaluation mode, in float32 on the CPU.

    Raises:
        ValueError: the variant is unknown, the image size does not fit, or the checkpoint is not one of this variant.
        FileNotFoundError: there is no such checkpoint.
    """
    dimensions, size = _dimensions(variant, image_size)
    packaged = WEIGHTS_FOLDER / f"{variant}.safetensors"
    if checkpoint is None and packaged.exists():
        checkpoint = packaged
    if checkpoint is not None:
        # on the meta device, no time is lost on initial values that the checkpoint replaces
        with torch.device("meta"):
            sam = _assemble(dimensions, size)
        load_into(sam, load_checkpoint(checkpoint))
    else:
        if variant != PACKAGED_VARIANT:
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
    set_gradient_checkpointing(sam, gradient_checkpointing)
    return sam.eval()


def build_sam_without_weights(variant: str, image_size: int | None = None) -> Sam:
    """A SAM on the meta device, whose weights take no memory and have no values: to see at once what can be adapted.

    Args:
        variant, image_size: as in :func:`build_sam`.

    Raises:
        ValueError: the variant is unknown, or the image size does not fit.
    """
    with torch.device("meta"):
        sam = _assemble(*_dimensions(variant, image_size))
    sam.known_sha256 = ""  # there is nothing to digest
    return sam.eval()


def variant_of(sam: Sam) -> str:
    """The name in ``VARIANTS`` of the variant that a SAM's image encoder is.

    Raises:
        ValueError: the encoder has the dimensions of none of them.
    """
    width, depth = sam.image_encoder.pos_embed.shape[-1], len(sam.image_encoder.blocks)  # adapters may replace layers
    name = variant_with(width, depth)
    if name is None:
        raise ValueError(
            f"An encoder of width {width} and depth {depth} is none of {', '.join(VARIANTS)}: build it with build_sam."
        )
    return name


def _dimensions(variant: str, image_size: int | None) -> tuple[SamVariant, int]:
    """The dimensions of a variant, and the image size that it is built for."""
    if variant not in VARIANTS:
        raise ValueError(f"Unknown SAM variant {variant!r}: expected one of {', '.join(VARIANTS)}.")
    dimensions = VARIANTS[variant]
    size = dimensions.image_size if image_size is None else image_size
    if not isinstance(size, int) or size < 1 or size % dimensions.patch_size:
        raise ValueError(
            f"Image size {size!r} does not fit {variant}: expected a positive int, a multiple of "
            f"{dimensions.patch_size} pixels."
        )
    return dimensions, size


def _assemble(dimensions: SamVariant, image_size: int) -> Sam:
    """Put a SAM together as ``segment_anything.build_sam`` does, for any dimensions."""
    grid = image_size // dimensions.patch_size
    return Sam(
        image_encoder=ImageEncoder(
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
