import numpy as np
import pytest
import torch
from monai.transforms import Compose

from monai_cobot.transforms import BoxFromMask, BoxFromMaskd, RandJitterBox, RandJitterBoxd
from monai_cobot.transforms.boxes import box_from_mask, check_box, jitter_box


def test_the_box_of_one_pixel_is_half_open_with_x_along_the_last_axis() -> None:
    mask = np.zeros((10, 20))
    mask[3, 7] = 1
    box = box_from_mask(mask)
    assert box.dtype == torch.float32
    assert box.tolist() == [7, 3, 8, 4]


@pytest.mark.parametrize("lead", [(), (1,)])
def test_the_box_holds_all_components_and_touches_the_border(lead: tuple[int, ...]) -> None:
    mask = torch.zeros((*lead, 6, 9))
    mask[..., 0, 0] = 1
    mask[..., 5, 8] = 2
    assert BoxFromMask()(mask).tolist() == [0, 0, 9, 6]


def test_an_empty_mask_has_no_box() -> None:
    with pytest.raises(ValueError, match="empty mask"):
        box_from_mask(np.zeros((4, 4)))


def test_a_mask_of_several_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 4, 4\)"):
        box_from_mask(np.ones((2, 4, 4)))


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ([5, 5, 3, 8], "inverted"),
        ([5, 5, 5, 8], "empty"),
        ([20, 0, 30, 5], "outside"),
        ([-9, -9, 0, 0], "outside"),
        ([0, 0, float("nan"), 5], "not finite"),
        ([0, 0, float("inf"), 5], "not finite"),
        ([1, 2, 3], "four numbers"),
    ],
)
def test_an_unusable_box_is_refused_with_what_is_wrong(box: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_box(np.array(box), (10, 20))


def test_a_box_that_reaches_over_the_border_is_usable() -> None:
    check_box(np.array([-5, -5, 40, 40]), (10, 20))


@pytest.mark.parametrize("direction", ["both", "outwards"])
@pytest.mark.parametrize("box", [[4, 3, 5, 4], [0, 0, 30, 20], [2, 5, 28, 9], [29.5, 19.5, 30, 20]])
def test_a_moved_box_stays_usable_inside_the_image_and_around_the_middle(box: list[float], direction: str) -> None:
    random = np.random.RandomState(0)
    start = np.array(box)
    middle = (start[:2] + start[2:]) / 2
    for _ in range(200):
        moved = jitter_box(start, (20, 30), 25, direction, random).numpy()
        check_box(moved, (20, 30))
        assert (moved >= 0).all()
        assert (moved <= [30, 20, 30, 20]).all()
        assert (moved[:2] <= middle).all()
        assert (moved[2:] >= middle).all()
        if direction == "outwards":
            assert (moved[:2] <= start[:2]).all()
            assert (moved[2:] >= start[2:]).all()


def test_each_side_moves_by_its_own_number_up_to_the_maximum() -> None:
    random = np.random.RandomState(0)
    moves = np.array([jitter_box(np.array([50, 50, 90, 90]), (200, 200), 3, "both", random) for _ in range(400)])
    moves -= [50, 50, 90, 90]
    for side in range(4):
        assert set(moves[:, side]) == {-3, -2, -1, 0, 1, 2, 3}
    assert (np.abs(np.corrcoef(moves.T) - np.eye(4)) < 0.2).all()


def test_without_jitter_the_box_stays() -> None:
    box = torch.tensor([1.5, 2.0, 7.0, 8.0])
    assert torch.equal(jitter_box(box, (10, 10), 0, "both", np.random.RandomState(0)), box)


def test_the_same_seed_moves_the_box_alike() -> None:
    boxes = [RandJitterBox(9).set_random_state(seed=5)(np.array([40, 40, 60, 60]), (100, 100)) for _ in range(2)]
    assert torch.equal(*boxes)
    assert not torch.equal(boxes[0], RandJitterBox(9).set_random_state(seed=6)(np.array([40, 40, 60, 60]), (100, 100)))


@pytest.mark.parametrize("arguments", [{"max_jitter": -1}, {"direction": "inwards"}])
def test_a_jitter_that_does_not_exist_is_refused(arguments: dict) -> None:
    with pytest.raises(ValueError, match="jitter"):
        RandJitterBoxd(**arguments)


def test_dictionary_transforms_leave_their_input_as_it_is() -> None:
    mask = torch.zeros(1, 20, 30)
    mask[0, 5:9, 10:15] = 1
    sample = {"image": torch.rand(1, 20, 30), "label": mask}
    result = Compose([BoxFromMaskd(), RandJitterBoxd(max_jitter=2)]).set_random_state(seed=1)(sample)
    assert set(sample) == {"image", "label"}
    assert (result["box"] - torch.tensor([10.0, 5, 15, 9])).abs().max() <= 2
