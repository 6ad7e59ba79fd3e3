"""A SAM that takes images of several sizes with the same parameters, so that training can begin with small ones."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_cobot.networks import decode_masks
from monai_cobot.networks._segment_anything import Sam
from monai_cobot.networks.frame import boxes_to_sam_frame
from monai_cobot.networks.prompts import embed_boxes, embed_points


class ResizableSam(nn.Module):
    """The parts of SAM that training calls, for square images of any multiple of the patch size.

    The absolute positions are resized at every call, as ``load_into`` would; the fused attention interpolates the
    relative ones. So one set of parameters, and one state of the optimizer, serves all sizes, and at the SAM's own size
    the arithmetic is SAM's.

    Args:
        sam: from ``build_sam``.
    """

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.sam = sam

    def encode(self, images: Tensor) -> Tensor:
        """Encode images: (B, 1, S, S) in [0, 1] -> (B, C, h, w). Prompts are those of this size from now on."""
        sam, encoder = self.sam, self.sam.image_encoder
        size = images.shape[-1]
        x = encoder.patch_embed((images * 255 - sam.pixel_mean) / sam.pixel_std)  # (B, h, w, D)
        grid = x.shape[1]
        sam.prompt_encoder.input_image_size = (size, size)
        sam.prompt_encoder.image_embedding_size = (grid, grid)
        positions = encoder.pos_embed
        if positions.shape[1] != grid:
            positions = F.interpolate(
                positions.permute(0, 3, 1, 2), (grid, grid), mode="bicubic", align_corners=False, antialias=True
            ).permute(0, 2, 3, 1)
        x = x + positions
        for block in encoder.blocks:
            x = block(x)
        return encoder.neck(x.permute(0, 3, 1, 2))

    def box_tokens(self, boxes: Tensor) -> Tensor:
        """Boxes (B, M, 4), xyxy, half-open pixels of the image -> (B, M, 2, C)."""
        size = self.sam.prompt_encoder.input_image_size
        return embed_boxes(self.sam.prompt_encoder, boxes_to_sam_frame(boxes, size, size[0]))

    def point_tokens(self, points: Tensor, labels: Tensor) -> Tensor:
        """Points (B, M, P, 2) on the grid of the logits and labels (B, M, P) -> (B, M, P, C)."""
        encoder = self.sam.prompt_encoder
        scale = encoder.input_image_size[0] / (4 * encoder.image_embedding_size[0])
        return embed_points(encoder, (points + 0.5) * scale - 0.5, labels)

    def decode(self, embeddings: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings (B, C, h, w), tokens (B, M, T, C) -> logits (B, M, 4 h, 4 w), predicted IoU (B, M)."""
        return decode_masks(self.sam, embeddings, tokens)


def initialise(sam: Sam, seed: int) -> None:
    """Give a SAM new random weights, in place: torch's own initial values, and positions as ViT's are initialised."""
    encoder = sam.image_encoder
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        for module in sam.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
            elif isinstance(module, type(encoder.neck[1])):  # segment_anything's LayerNorm2d cannot reset itself
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(encoder.pos_embed, std=0.02)
        nn.init.normal_(sam.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix)
        for block in encoder.blocks:
            nn.init.zeros_(block.attn.rel_pos_h)
            nn.init.zeros_(block.attn.rel_pos_w)
            # outputs of the branches start small, so that depth does not add up
            block.attn.proj.weight.div_(math.sqrt(2 * len(encoder.blocks)))
            block.mlp.lin2.weight.div_(math.sqrt(2 * len(encoder.blocks)))
