"""Prompts of generated objects."""

import pytest
import torch
from pretraining.prompts import EXACT, choose_targets, correcting_clicks, first_clicks, jitter_boxes, tight_boxes
from pretraining.scenes import Scenes, generate
from torch import Generator


def test_a_tight_box_is_half_open_around_the_mask() -> None:
    masks = torch.zeros(2, 10, 12, dtype=torch.bool)
    masks[0, 2:5, 3:9] = True
    masks[1, 9, 11] = True
    assert tight_boxes(masks).tolist() == [[3, 2, 9, 5], [11, 9, 12, 10]]


def test_objects_that_cannot_be_seen_are_only_chosen_without_weight(generator: Generator) -> None:
    masks = torch.rand(2, 5, 16, 16, generator=generator) > 0.5
    seen = torch.tensor([[True, False, True, False, False], [True, True, True, True, False]])
    targets = choose_targets(generator, Scenes(torch.zeros(2, 1, 16, 16), masks, seen), 3)
    assert targets.weights.sum(1).tolist() == [2, 3]
    chosen = {mask.numpy().tobytes() for mask in targets.masks[0][targets.weights[0] > 0]}
    assert chosen == {masks[0, 0].numpy().tobytes(), masks[0, 2].numpy().tobytes()}


def test_jittered_boxes_move_both_ways_and_are_never_empty_or_outside(generator: Generator) -> None:
    low = torch.rand(64, 8, 2, generator=generator) * 60
    boxes = torch.cat((low, low + 1 + torch.rand(64, 8, 2, generator=generator) * 3), dim=-1)
    boxes[:, :4, 2:] = 64
    moved = jitter_boxes(generator, boxes, 64)
    assert moved.min() >= 0
    assert moved.max() <= 64
    assert (moved[..., 2:] - moved[..., :2]).min() >= 0.5
    inner = boxes[:, :4, :2] > 5
    difference = (moved - boxes)[:, :4, :2][inner]
    assert difference.min() < -0.5
    assert difference.max() > 0.5


def test_as_many_boxes_as_is_said_are_those_of_the_masks_to_less_than_a_pixel(generator: Generator) -> None:
    boxes = torch.tensor([60.0, 80, 180, 200]).repeat(50, 20, 1)
    moved = (jitter_boxes(generator, boxes, 256) - boxes).abs().amax(-1)
    assert float((moved < 0.5).float().mean()) == pytest.approx(EXACT, abs=0.05)
    assert moved.max() > 5


def test_a_first_click_lies_inside_the_object(generator: Generator) -> None:
    targets = choose_targets(generator, generate(generator, 4, 64), 4)
    points = first_clicks(generator, targets.masks.float())[:, :, 0]
    asked = targets.weights > 0
    assert asked.sum() > 8
    for mask, (x, y) in zip(targets.masks[asked], points[asked].tolist(), strict=True):
        assert mask[y, x]


def test_a_correcting_click_is_in_the_middle_of_the_largest_error_and_says_what_it_is() -> None:
    masks = torch.zeros(1, 3, 32, 32)
    masks[..., 4:20, 4:20] = 1
    logits = torch.where(masks > 0.5, 5.0, -5.0)
    logits[0, 0, 4:20, 4:13] = -5  # a wide strip is missing
    logits[0, 0, 28, :] = 5  # a narrow one is too much
    logits[0, 1, 22:31, 10:31] = 5  # too much
    points, labels = correcting_clicks(logits, masks)
    assert labels[0, :, 0].tolist() == [1, 0, -1]
    x, y = points[0, 0, 0].tolist()
    assert 6 <= x <= 10
    assert 6 <= y <= 17
    x, y = points[0, 1, 0].tolist()
    assert 24 <= y <= 28
    assert 12 <= x <= 28
