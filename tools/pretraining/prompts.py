"""Prompts for objects: boxes, exact and jittered, first clicks, and clicks that correct a mask."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from pretraining.fields import happens, normal, uniform
from pretraining.scenes import Scenes

EXACT = 0.7
"""Share of the boxes that lie as tightly around their masks as those that are derived from masks."""


@dataclass(frozen=True)
class Targets:
    """Objects that are asked for.

    Attributes:
        masks: (B, M, S, S), boolean.
        boxes: (B, M, 4), the tightest boxes around the masks: xyxy, half-open pixels, float32.
        weights: (B, M): 1, or 0 where an image has fewer objects to ask for.
    """

    masks: Tensor
    boxes: Tensor
    weights: Tensor


def choose_targets(generator: Generator, scenes: Scenes, count: int) -> Targets:
    """Choose objects of every image that can be seen.

    Args:
        generator: source of the choice.
        scenes: the images with all their objects.
        count: objects an image, M.

    Returns:
        M objects of every image.
    """
    ranks = scenes.seen + uniform(generator, tuple(scenes.seen.shape), 0, 0.5)
    chosen = ranks.topk(count, dim=1).indices  # (B, M)
    image = torch.arange(len(chosen), device=chosen.device).unsqueeze(1)
    masks = scenes.masks[image, chosen]
    return Targets(masks, tight_boxes(masks), scenes.seen[image, chosen].float())


def tight_boxes(masks: Tensor) -> Tensor:
    """The tightest boxes around masks: (..., H, W), boolean -> (..., 4); the whole image for an empty mask."""
    columns, rows = masks.any(-2), masks.any(-1)
    edges = []
    for line in (columns, rows):
        low = line.float().argmax(-1)
        high = line.shape[-1] - line.flip(-1).float().argmax(-1)
        edges.append((low, high))
    (left, right), (top, bottom) = edges
    return torch.stack((left, top, right, bottom), dim=-1).float()


def jitter_boxes(generator: Generator, boxes: Tensor, size: int) -> Tensor:
    """Move the edges of some boxes in and out, by about a twentieth of the box, as a hurried hand does.

    Args:
        generator: source of the movements.
        boxes: (B, M, 4), xyxy, half-open pixels.
        size: rows and columns of the image.

    Returns:
        (B, M, 4), never empty, within the image.
    """
    low, high = boxes[..., :2], boxes[..., 2:]
    extent = (high - low).repeat(1, 1, 2)
    reach = 0.06 * happens(generator, (*boxes.shape[:2], 1), 1 - EXACT) * extent + 0.0005 * size
    moved = boxes + reach * normal(generator, tuple(boxes.shape)).clamp(-2, 2)
    # an edge stays on its own side of the middle, and half a pixel away from it
    middle = (low + high) / 2
    moved = torch.cat((moved[..., :2].minimum(middle - 0.5), moved[..., 2:].maximum(middle + 0.5)), dim=-1)
    return moved.clamp(0, size)


def first_clicks(generator: Generator, masks: Tensor) -> Tensor:
    """A click somewhere inside each mask, rather away from its outline.

    Args:
        generator: source of the choice.
        masks: (B, M, H, W) in [0, 1].

    Returns:
        (B, M, 1, 2) as x, y, in indices of the masks' pixels.
    """
    depth = F.avg_pool2d(masks, 7, stride=1, padding=3) * masks
    return _place(depth * uniform(generator, tuple(masks.shape), 0.5, 1))


def correcting_clicks(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """A click in the middle of the largest error of each mask.

    Args:
        logits: (B, M, H, W), above 0 inside the predicted masks.
        masks: (B, M, H, W) in [0, 1].

    Returns:
        Points (B, M, 1, 2) as x, y, in indices of the masks' pixels, and labels (B, M, 1): 1 for what was missed, 0 for
        what was too much, -1 where nothing is wrong.
    """
    truth = masks > 0.5
    wrong = (logits > 0) != truth
    # the widest error: the one that is left after the widest averages
    depth = sum(F.avg_pool2d(wrong.float(), width, stride=1, padding=width // 2) for width in (3, 7, 15)) * wrong
    points = _place(depth)
    label = truth.flatten(2).gather(2, depth.flatten(2).argmax(2, keepdim=True)).long()
    return points, torch.where(wrong.flatten(2).any(2, keepdim=True), label, -1)


def _place(score: Tensor) -> Tensor:
    """The pixel of the highest score: (B, M, H, W) -> (B, M, 1, 2) as x, y."""
    index = score.flatten(2).argmax(2, keepdim=True)
    width = score.shape[-1]
    return torch.stack((index % width, index // width), dim=-1)
