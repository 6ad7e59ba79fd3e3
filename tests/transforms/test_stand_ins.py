"""Masks without learning."""

import math

import numpy as np
import pytest
import torch

from monai_cobot.transforms import box_from_mask, inscribed_ellipse, otsu_in_box


def test_the_ellipse_touches_all_sides_of_its_box_and_has_an_ellipses_area() -> None:
    box = torch.tensor([10.0, 20.0, 110.0, 80.0])
    ellipse = inscribed_ellipse(box, (100, 128))
    assert torch.equal(box_from_mask(ellipse), box)
    assert ellipse.sum() == pytest.approx(math.pi * 50 * 30, rel=0.01)


def test_many_boxes_have_the_ellipses_of_each() -> None:
    boxes = torch.tensor(
        [[[0.0, 0.0, 9.0, 5.0], [3.5, 2.25, 8.0, 7.0]], [[1.0, 1.0, 2.0, 2.0], [-4.0, 0.0, 5.0, 20.0]]]
    )
    together = inscribed_ellipse(boxes, (8, 10))
    assert together.shape == (2, 2, 8, 10)
    for i, j in np.ndindex(2, 2):
        assert torch.equal(together[i, j], inscribed_ellipse(boxes[i, j], (8, 10)))


@pytest.mark.parametrize("brightness", [0.9, 0.1])
def test_otsu_finds_a_bright_and_a_dark_object_and_stays_in_the_box(brightness: float) -> None:
    truth = inscribed_ellipse(torch.tensor([12.0, 8.0, 40.0, 30.0]), (48, 64)).numpy()
    image = np.where(truth, brightness, 0.5) + np.random.default_rng(0).normal(0, 0.02, truth.shape)
    image[:, 50:] = brightness  # outside the box, of the same brightness
    assert np.array_equal(otsu_in_box(image.astype(np.float32), box_from_mask(truth)), truth)


def test_otsu_takes_a_box_of_one_pixel_and_one_that_leaves_the_image() -> None:
    image = np.arange(20, dtype=np.float32).reshape(4, 5)
    assert otsu_in_box(image, torch.tensor([1.0, 2.0, 2.0, 3.0])).sum() == 1
    assert otsu_in_box(image, torch.tensor([-3.0, -3.0, 2.0, 2.0]))[2:].sum() == 0
