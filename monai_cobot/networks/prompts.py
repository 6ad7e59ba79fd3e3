"""SAM's embeddings of prompts and positions, without the indexed assignments that break tracing."""

import math
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from monai_cobot.networks._segment_anything import PromptEncoder
from monai_cobot.networks.attention import is_captured

_GRIDS: WeakKeyDictionary[PromptEncoder, tuple[tuple, Tensor]] = WeakKeyDictionary()
"""Embedded grids, which are the same in every pass, beside the state of what they were made of."""


def embed_boxes(prompt_encoder: PromptEncoder, boxes: Tensor) -> Tensor:
    """Embed box prompts as ``PromptEncoder._embed_boxes`` does.

    Args:
        prompt_encoder: SAM's prompt encoder, embedding width C.
        boxes: (..., 4) in pixels of SAM's frame, as ``boxes_to_sam_frame`` returns them.

    Returns:
        (..., 2, C): one token for the low and one for the high corner.
    """
    height, width = prompt_encoder.input_image_size
    corners = (boxes.float().unflatten(-1, (2, 2)) + 0.5) / boxes.new_tensor((width, height), dtype=torch.float32)
    kinds = torch.cat((prompt_encoder.point_embeddings[2].weight, prompt_encoder.point_embeddings[3].weight))  # (2, C)
    return _embed_positions(prompt_encoder, corners) + kinds


def embed_points(prompt_encoder: PromptEncoder, points: Tensor, labels: Tensor) -> Tensor:
    """Embed point prompts as ``PromptEncoder._embed_points`` does.

    Points without a box want one point of label -1 beside them, which stands where SAM learned to expect the box.

    Args:
        prompt_encoder: SAM's prompt encoder, embedding width C.
        points: (..., P, 2) as x, y in pixels of SAM's frame, measured on pixel centres: the first column has x = 0.
        labels: (..., P): 1 inside the object, 0 outside, -1 where there is no point, whatever its coordinates.

    Returns:
        (..., P, C): one token a point.
    """
    height, width = prompt_encoder.input_image_size
    positions = (points.float() + 0.5) / points.new_tensor((width, height), dtype=torch.float32)
    kinds = (prompt_encoder.not_a_point_embed, *prompt_encoder.point_embeddings[:2])  # of labels -1, 0, 1
    kind = torch.cat([embedding.weight for embedding in kinds])[labels.long() + 1]  # (..., P, C)
    # chosen, not multiplied by 0: a point that is none may lie anywhere, at NaN too
    return torch.where((labels >= 0).unsqueeze(-1), _embed_positions(prompt_encoder, positions), 0) + kind


def embed_grid(prompt_encoder: PromptEncoder) -> Tensor:
    """Embed the positions of the image embedding's pixels as ``PromptEncoder.get_dense_pe`` does.

    Args:
        prompt_encoder: SAM's prompt encoder, embedding width C.

    Returns:
        (h * w, C), row by row.
    """
    if is_captured():
        return _embed_grid(prompt_encoder)
    matrix = prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
    state = (matrix.data_ptr(), matrix._version, tuple(prompt_encoder.image_embedding_size))
    kept = _GRIDS.get(prompt_encoder)
    if kept is None or kept[0] != state:
        with torch.inference_mode(False), torch.no_grad():  # it may be needed with gradients next time
            kept = (state, _embed_grid(prompt_encoder))
        _GRIDS[prompt_encoder] = kept
    return kept[1]


def _embed_grid(prompt_encoder: PromptEncoder) -> Tensor:
    rows, columns = prompt_encoder.image_embedding_size
    device = prompt_encoder.no_mask_embed.weight.device
    y = (torch.arange(rows, device=device) + 0.5) / rows
    x = (torch.arange(columns, device=device) + 0.5) / columns
    grid = torch.stack((x.expand(rows, columns), y.unsqueeze(1).expand(rows, columns)), dim=-1)  # (h, w, 2)
    return _embed_positions(prompt_encoder, grid.flatten(0, 1))


def _embed_positions(prompt_encoder: PromptEncoder, positions: Tensor) -> Tensor:
    """Random Fourier features of positions in [0, 1] x [0, 1]: (..., 2) as x, y -> (..., C)."""
    frequencies = prompt_encoder.pe_layer.positional_encoding_gaussian_matrix.float()  # (2, C / 2)
    x, y = (2 * positions - 1).unsqueeze(-1).unbind(-2)
    # sums instead of a matrix product: autocast would round the product, and phases of many turns do not survive that
    phases = 2 * math.pi * (x * frequencies[0] + y * frequencies[1])
    return torch.cat((phases.sin(), phases.cos()), dim=-1)
