"""The networks that are compared, all of one shape, with random weights: what they cost does not depend on them."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import openvino
import torch
from torch import Tensor
from transformers import SamConfig, SamMaskDecoderConfig, SamModel, SamPromptEncoderConfig, SamVisionConfig
from transformers.models.sam.modeling_sam import SamVisionModel

from benchmarks.timing import Setting
from monai_cobot.networks import VARIANTS, build_sam, set_attention
from monai_cobot.networks._segment_anything import ImageEncoderViT, Sam
from monai_cobot.networks.backends.openvino import convert_encoder

Encoder = Callable[[Tensor], object]


def our_sam(setting: Setting) -> Sam:
    """A SAM as this project builds it, in evaluation mode."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # random weights are what is wanted
        return build_sam(setting.variant, image_size=setting.image_size).to(setting.device)


def stock_sam(setting: Setting) -> Sam:
    """A SAM with nothing but segment_anything's own code, in evaluation mode."""
    sam = our_sam(setting)
    set_attention(sam, "stock")
    sam.image_encoder.__class__ = ImageEncoderViT
    return sam


def normalised_image(setting: Setting, batch: int = 1) -> Tensor:
    """What encoders take: (B, 3, size, size)."""
    return torch.randn(batch, 3, setting.image_size, setting.image_size, device=setting.device)


def transformers_encoder(setting: Setting) -> SamVisionModel:
    """Hugging Face's encoder, with ``scaled_dot_product_attention``."""
    config = _transformers_config(setting).vision_config
    return SamVisionModel._from_config(config, attn_implementation="sdpa").to(setting.device).eval()


def transformers_sam(setting: Setting) -> SamModel:
    """Hugging Face's SAM, with ``scaled_dot_product_attention``."""
    return SamModel._from_config(_transformers_config(setting), attn_implementation="sdpa").to(setting.device).eval()


def _transformers_config(setting: Setting) -> SamConfig:
    shape = VARIANTS[setting.variant]
    vision = SamVisionConfig(
        hidden_size=shape.width,
        output_channels=shape.prompt_width,
        num_hidden_layers=shape.depth,
        num_attention_heads=shape.heads,
        image_size=setting.image_size,
        patch_size=shape.patch_size,
        window_size=shape.window_size,
        global_attn_indexes=list(shape.global_blocks),
        mlp_dim=4 * shape.width,
        num_pos_feats=shape.prompt_width // 2,
    )
    prompts = SamPromptEncoderConfig(
        hidden_size=shape.prompt_width, image_size=setting.image_size, patch_size=shape.patch_size
    )
    masks = SamMaskDecoderConfig(
        hidden_size=shape.prompt_width,
        mlp_dim=shape.decoder_mlp_width,
        num_attention_heads=shape.decoder_heads,
    )
    return SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=masks)


def openvino_encoder(setting: Setting) -> Encoder:
    """segment_anything's encoder, converted by OpenVINO as it is; on the CPU."""
    model = convert_encoder(stock_sam(setting).image_encoder.cpu())
    hint = {"float32": "f32", "bfloat16": "bf16"}[setting.precision]
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint})
    return lambda x: compiled(x.numpy())
