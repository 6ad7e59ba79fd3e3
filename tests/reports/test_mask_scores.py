"""Masks against the truth, on shapes whose distances are known."""

import math

import numpy as np
import pytest

from monai_cobot.reports import score_mask


def cuboid(low: tuple[int, int, int], high: tuple[int, int, int], shape: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros(shape, dtype=np.uint8)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = 1
    return mask


def test_the_same_mask_is_perfect() -> None:
    mask = cuboid((2, 3, 4), (8, 9, 7), (12, 12, 12))
    scores = score_mask(mask, mask)
    assert (scores.dice, scores.iou, scores.surface_dice, scores.hausdorff95) == (1, 1, 1, 0)


def test_a_mask_moved_along_an_axis_is_as_far_away_as_it_was_moved_in_millimetres() -> None:
    truth = cuboid((4, 4, 4), (14, 14, 14), (24, 24, 24))
    moved = cuboid((4, 4, 7), (14, 14, 17), (24, 24, 24))
    scores = score_mask(moved, truth, spacing=(1, 1, 2.5))
    assert scores.dice == pytest.approx(0.7)
    assert scores.iou == pytest.approx(0.7 / 1.3)
    assert scores.hausdorff95 == pytest.approx(3 * 2.5)


@pytest.mark.parametrize(("tolerance", "within"), [(0.9, False), (1.1, True)])
def test_the_surface_dice_counts_what_lies_within_the_tolerance(tolerance: float, within: bool) -> None:
    truth = cuboid((4, 4, 4), (14, 14, 14), (20, 20, 20))
    larger = cuboid((3, 3, 3), (15, 15, 15), (20, 20, 20))
    surface_dice = score_mask(larger, truth, tolerance=tolerance).surface_dice
    assert surface_dice > 0.8 if within else surface_dice == 0


def test_a_picture_is_measured_by_its_outline() -> None:
    truth, moved = cuboid((4, 4, 0), (14, 14, 1), (24, 24, 1)), cuboid((4, 8, 0), (14, 18, 1), (24, 24, 1))
    scores = score_mask(moved, truth, tolerance=1)
    assert scores.hausdorff95 == pytest.approx(4)
    assert 0 < scores.surface_dice < 0.8


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_single_row_is_measured_too(axis: int) -> None:
    shape = tuple(9 if along == axis else 1 for along in range(3))
    truth, moved = np.zeros(shape), np.zeros(shape)
    truth.flat[2:5], moved.flat[4:7] = 1, 1
    scores = score_mask(moved, truth, spacing=(2, 2, 2), tolerance=2)
    assert scores.dice == pytest.approx(1 / 3)
    assert scores.hausdorff95 == pytest.approx(4, rel=0.1)


def test_an_empty_mask_fits_an_empty_truth_alone() -> None:
    empty, full = np.zeros((4, 4, 4)), np.ones((4, 4, 4))
    assert score_mask(empty, empty).dice == score_mask(empty, empty).surface_dice == 1
    missed = score_mask(empty, full)
    assert (missed.dice, missed.iou, missed.surface_dice) == (0, 0, 0)
    assert math.isnan(missed.hausdorff95)


def test_masks_of_different_shapes_are_not_compared() -> None:
    with pytest.raises(ValueError, match=r"\(4, 4, 4\) and \(4, 4, 5\)"):
        score_mask(np.zeros((4, 4, 4)), np.zeros((4, 4, 5)))
