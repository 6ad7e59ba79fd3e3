"""What training minimises, and the score it is judged by."""

from torch import Tensor
from torch.nn import functional as F


def mask_loss(logits: Tensor, quality: Tensor, masks: Tensor, weights: Tensor) -> Tensor:
    """Dice loss + binary cross-entropy + squared error of the predicted IoU, averaged over prompts.

    Args:
        logits: (B, M, H, W).
        quality: (B, M), the IoU that SAM predicts for its masks.
        masks: (B, M, H, W) in [0, 1].
        weights: (B, M), of the prompts.

    Returns:
        A scalar.
    """
    probability = logits.sigmoid()
    shared = (probability * masks).sum((2, 3))
    dice = 1 - (2 * shared + 1) / (probability.sum((2, 3)) + masks.sum((2, 3)) + 1)
    # relative to the object's extent, for a small object is as much work as a large one; bounded for the smallest
    cross_entropy = F.binary_cross_entropy_with_logits(logits, masks, reduction="none").mean((2, 3))
    cross_entropy = cross_entropy / (masks.mean((2, 3)) + 0.05)
    squared_error = (quality - overlap(logits.detach(), masks)).square()
    loss = dice + 0.5 * cross_entropy + 0.5 * squared_error
    return (loss * weights).sum() / weights.sum().clamp_min(1)


def overlap(logits: Tensor, masks: Tensor) -> Tensor:
    """IoU of the predicted with the true masks, (B, M)."""
    predicted, truth = logits > 0, masks > 0.5
    shared = (predicted & truth).sum((2, 3))
    return shared / (predicted | truth).sum((2, 3)).clamp_min(1)


def dice_score(predicted: Tensor, truth: Tensor, weights: Tensor) -> float:
    """Mean DSC of boolean masks (B, M, H, W), weighted with (B, M)."""
    shared = (predicted & truth).sum((2, 3))
    dice = 2 * shared / (predicted.sum((2, 3)) + truth.sum((2, 3))).clamp_min(1)
    return float((dice * weights).sum() / weights.sum().clamp_min(1))
