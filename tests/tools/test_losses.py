"""What pretraining minimises and reports."""

import torch
from pretraining.losses import dice_score, mask_loss, overlap


def test_the_right_mask_with_the_right_quality_costs_nothing_and_others_more() -> None:
    masks = torch.zeros(1, 2, 16, 16)
    masks[:, :, 4:12, 4:10] = 1
    right = torch.where(masks > 0.5, 20.0, -20.0)
    ones = torch.ones(1, 2)
    assert mask_loss(right, ones, masks, ones) < 1e-3
    assert mask_loss(-right, 0 * ones, masks, ones) > 5
    assert mask_loss(right, 0 * ones, masks, ones) > 0.4


def test_a_prompt_without_weight_counts_for_nothing() -> None:
    masks = (torch.rand(1, 2, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    logits = torch.zeros(1, 2, 8, 8)
    quality, weights = torch.ones(1, 2), torch.tensor([[1.0, 0.0]])
    changed = logits.clone()
    changed[0, 1] = 9
    assert mask_loss(logits, quality, masks, weights) == mask_loss(changed, quality, masks, weights)
    assert mask_loss(logits, quality, masks, torch.zeros(1, 2)) == 0


def test_overlap_is_the_intersection_over_the_union() -> None:
    masks = torch.zeros(1, 1, 4, 4)
    masks[..., :2, :] = 1
    logits = torch.full((1, 1, 4, 4), -1.0)
    logits[..., 1:3, :] = 1
    assert overlap(logits, masks).item() == torch.tensor(1 / 3)
    assert dice_score(logits > 0, masks > 0, torch.ones(1, 1)) == 0.5
