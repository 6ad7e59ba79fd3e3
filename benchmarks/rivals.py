"""The networks that are compared, all of one shape, with random weights: what they cost does not depend on them."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import SamConfig, SamMaskDecoderConfig, SamModel, SamPromptEncoderConfig, SamVisionConfig
from transformers.models.sam.modeling_sam import SamVisionModel

from benchmarks.timing import Setting
from monai_cobot.networks import VARIANTS, build_sam, set_attention
from monai_cobot.networks._segment_anything import ImageEncoderViT, Sam
from monai_cobot.networks.backends.openvino import compile_model, convert_encoder, convert_module

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
        initializer_range=0.02,  # the usual 1e-10 makes gradients so small that processors compute 20 times as long
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
    compiled = compile_model(convert_encoder(stock_sam(setting).image_encoder), setting.dtype)
    return lambda x: compiled(x.numpy())


def openvino_decoder(setting: Setting, embedding: Tensor, boxes: Tensor) -> Callable[[], object]:
    """segment_anything's prompt encoder and mask decoder, converted by OpenVINO as they are, at work; on the CPU."""
    compiled = compile_model(convert_module(_StockDecoder(stock_sam(setting)), embedding, boxes), setting.dtype)
    return lambda: compiled((embedding.numpy(), boxes.numpy()))


class _StockDecoder(nn.Module):
    """(1, C, h, w) and (N, 4) -> (N, 1, 4 h, 4 w), the logits of a mask for each box."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.sam = sam

    def forward(self, embedding: Tensor, boxes: Tensor) -> Tensor:
        """Decode."""
        return decode_by_stock(self.sam, embedding, boxes)


def decode_by_stock(sam: Sam, embedding: Tensor, boxes: Tensor) -> Tensor:
    """By segment_anything's own modules: (1, C, h, w) and boxes (N, 4) -> logits (N, 1, 4 h, 4 w)."""
    sparse, dense = sam.prompt_encoder(points=None, boxes=boxes, masks=None)
    positions = sam.prompt_encoder.get_dense_pe()
    masks: Tensor = sam.mask_decoder(embedding, positions, sparse, dense, multimask_output=False)[0]
    return masks
