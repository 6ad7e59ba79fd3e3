"""Generated images: shapes, objects that hide one another, looks."""

import pytest
import torch
from pretraining.fields import smooth_noise
from pretraining.looks import LOOKS
from pretraining.losses import dice_score
from pretraining.prompts import tight_boxes
from pretraining.scenes import FEWEST, OBJECTS, SMALLEST, Difficulty, Scenes, _visible, generate
from pretraining.shapes import random_shapes
from torch import Generator

from monai_cobot.transforms import inscribed_ellipse


def test_the_same_seed_draws_the_same_images(generator: Generator) -> None:
    first = generate(generator, 4, 64)
    again = generate(Generator().manual_seed(0), 4, 64)
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.masks, again.masks)
    other = generate(Generator().manual_seed(1), 4, 64)
    assert not torch.equal(first.images, other.images)


def test_images_are_grey_values_between_0_and_1_that_differ_from_one_another(generator: Generator) -> None:
    images = generate(generator, 6, 64).images
    assert images.shape == (6, 1, 64, 64)
    assert images.min() >= 0
    assert images.max() <= 1
    assert images.flatten(1).std(1).min() > 0.01
    assert torch.pdist(images.flatten(1)).min() > 1


def test_many_objects_can_be_asked_for_and_those_have_masks(generator: Generator) -> None:
    scenes = generate(generator, 8, 96)
    assert scenes.masks.shape == (8, OBJECTS, 96, 96)
    assert scenes.seen.sum(1).float().mean() > OBJECTS / 3
    assert scenes.masks[scenes.seen].flatten(1).sum(1).min() > SMALLEST


def contrasts(scenes: Scenes) -> torch.Tensor:
    """How much brighter than its surroundings each object is that can be asked for."""
    found = []
    for image, masks, seen in zip(scenes.images, scenes.masks, scenes.seen, strict=True):
        for mask in masks[seen]:
            ring = torch.nn.functional.max_pool2d(mask[None].float(), 7, 1, 3)[0].bool() & ~mask
            if ring.any():
                found.append(image[0][mask].mean() - image[0][ring].mean())
    return torch.stack(found)


def test_brightness_tells_objects_from_what_is_around_them(generator: Generator) -> None:
    assert contrasts(generate(generator, 16, 64)).abs().median() > 0.04


def test_easy_images_show_few_large_objects_that_stand_out_more_than_those_of_hard_ones(generator: Generator) -> None:
    easy = generate(generator, 16, 64, difficulty=Difficulty(hardest=0))
    hard = generate(generator, 16, 64, difficulty=Difficulty(hardest=1))
    assert not easy.masks[:, FEWEST:].any()
    assert hard.masks[:, FEWEST:].any()
    assert easy.masks[easy.seen].float().mean() > hard.masks[hard.seen].float().mean()
    assert contrasts(easy).abs().median() > contrasts(hard).abs().median()


def test_objects_are_brighter_or_darker_than_what_is_around_them_as_often_as_is_asked(generator: Generator) -> None:
    shares = [
        (contrasts(generate(generator, 48, 64, difficulty=Difficulty(hardest=0, darker=darker))) < 0).float().mean()
        for darker in (0.0, 0.5, 1.0)
    ]
    assert shares[0] < 0.05
    assert shares[0] + 0.2 < shares[1] < shares[2] - 0.1


def test_faint_objects_are_asked_for_like_others_in_hard_images_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(faint: float, hardest: float) -> Scenes:
        monkeypatch.setattr("pretraining.scenes.FAINT", faint)
        return generate(Generator().manual_seed(0), 32, 64, difficulty=Difficulty(hardest))

    visible, faint = drawn(0, 1), drawn(1, 1)
    assert contrasts(faint).abs().median() < 0.7 * contrasts(visible).abs().median()
    assert faint.seen.float().mean() > 0.8 * visible.seen.float().mean()
    assert torch.equal(drawn(1, 0).images, drawn(0, 0).images)


def test_a_batch_may_be_smaller_than_a_group_or_no_multiple_of_it(generator: Generator) -> None:
    assert len(generate(generator, 1, 32).images) == 1
    assert len(generate(generator, 5, 32, group=4).images) == 5


def test_shapes_come_largest_first_and_of_many_sizes(generator: Generator) -> None:
    areas = (random_shapes(generator, 16, 10, 64) > 0).float().mean((0, 2, 3))
    assert areas[0] > 5 * areas[-1]
    assert areas[-1] > 0


def test_faint_shapes_are_nearly_ellipses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretraining.shapes.ROUND", 0)

    def dice_of_ellipses(faint: bool) -> float:
        """Of shapes with the ellipses inscribed in their boxes."""
        chosen = torch.full((16, 6), faint)
        masks = random_shapes(Generator().manual_seed(0), 16, 6, 64, level=1.0, faint=chosen) > 0
        weights = (masks.sum((2, 3)) > 100).float()
        return dice_score(inscribed_ellipse(tight_boxes(masks), (64, 64)), masks, weights)

    assert dice_of_ellipses(True) > dice_of_ellipses(False) + 0.05


def test_a_shape_is_larger_inside_than_at_its_edge(generator: Generator) -> None:
    shape = random_shapes(generator, 1, 1, 64)[0, 0]
    assert shape.max() > 0 > shape.min()
    assert shape.max() < 0.5  # fractions of the image's side


def test_an_object_hides_what_is_under_it_unless_it_lies_within() -> None:
    whole = torch.zeros(1, OBJECTS, 64, 64, dtype=torch.bool)
    whole[0, 0, 8:40, 8:40] = True
    whole[0, 1, 32:60, 32:60] = True  # over a corner of the first
    whole[0, 2, 12:24, 12:24] = True  # within the first
    masks = _visible(whole)[0]
    assert not masks[0, 32:40, 32:40].any()
    assert masks[0, 8:32, 8:32].all()
    assert torch.equal(masks[1:3], whole[0, 1:3])


@pytest.mark.parametrize("name", LOOKS)
def test_every_look_is_finite_and_keeps_the_shape_also_of_a_constant_scene(name: str, generator: Generator) -> None:
    for scene in (
        torch.full((2, 1, 20, 24), 0.5),
        torch.rand(2, 1, 20, 24, generator=generator),
        torch.zeros(2, 1, 9, 9),
    ):
        image = LOOKS[name](generator, scene)
        assert image.shape == scene.shape
        assert image.isfinite().all()
        assert 0 <= image.min() <= image.max() <= 1


def test_smooth_noise_has_the_structures_it_is_asked_for(generator: Generator) -> None:
    def roughness(cells: float) -> float:
        field = smooth_noise(generator, (8, 1), (64, 64), (cells, cells))
        assert 0.6 < field.std() < 1.5
        return float(field.diff(dim=-1).std() / field.std())

    assert roughness(4) < roughness(12) < roughness(64)
