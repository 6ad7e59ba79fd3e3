import pytest
import torch

from monai_cobot.networks.frame import boxes_to_sam_frame, pad_to_square, resize_longest_side, resized_shape


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((480, 640), 1024, (768, 1024)),
        ((35, 51), 256, (176, 256)),
        ((256, 256), 256, (256, 256)),
        ((1, 3000), 64, (1, 64)),
    ],
)
def test_the_longest_side_gets_the_size_and_the_other_is_rounded(
    shape: tuple[int, int], size: int, expected: tuple[int, int]
) -> None:
    assert resized_shape(*shape, size) == expected
    assert resized_shape(*shape[::-1], size) == expected[::-1]


def test_no_length_may_be_zero() -> None:
    with pytest.raises(ValueError, match="0 x 5"):
        resized_shape(0, 5, 64)


def test_an_image_of_the_right_size_is_handed_back_untouched() -> None:
    image = torch.rand(1, 40, 64)
    assert resize_longest_side(image, 64) is image
    assert pad_to_square(torch.rand(1, 64, 64), 64).shape == (1, 64, 64)


def test_a_single_image_is_resized_as_one_of_a_batch() -> None:
    image = torch.rand(3, 30, 50)
    resized = resize_longest_side(image, 64)
    assert resized.shape == (3, 38, 64)
    assert torch.equal(resized, resize_longest_side(image[None], 64)[0])


def test_an_image_without_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(30, 50\)"):
        resize_longest_side(torch.rand(30, 50), 64)


def test_padding_goes_to_the_bottom_and_the_right() -> None:
    padded = pad_to_square(torch.ones(1, 1, 2, 3), 4, value=5.0)
    assert padded[0, 0].tolist() == [[1, 1, 1, 5], [1, 1, 1, 5], [5, 5, 5, 5], [5, 5, 5, 5]]


def test_padding_does_not_crop() -> None:
    with pytest.raises(ValueError, match="resize_longest_side"):
        pad_to_square(torch.ones(1, 5, 3), 4)


def test_the_whole_image_reaches_from_the_first_to_the_last_pixel_centre() -> None:
    box = boxes_to_sam_frame(torch.tensor([0, 0, 50, 30]), (30, 50), 100)
    assert box.tolist() == [0, 0, 99, 59]


def test_a_box_of_one_pixel_is_its_centre_at_scale_one() -> None:
    assert boxes_to_sam_frame(torch.tensor([7.0, 3, 8, 4]), (64, 64), 64).tolist() == [7, 3, 7, 3]


def test_a_box_below_a_pixel_of_the_frame_becomes_its_middle() -> None:
    box = boxes_to_sam_frame(torch.tensor([10.0, 20, 11, 60]), (400, 400), 100)
    assert box.tolist() == [2.125, 5, 2.125, 14]  # x from 2.5 to 2.75 in edges, half a pixel less in centres


def test_what_lies_outside_the_image_is_cut_off() -> None:
    assert boxes_to_sam_frame(torch.tensor([[-5.0, 3, 90, 70]]), (64, 64), 64).tolist() == [[0, 3, 63, 63]]


def test_boxes_have_four_numbers() -> None:
    with pytest.raises(ValueError, match=r"\(2, 6\)"):
        boxes_to_sam_frame(torch.zeros(2, 6), (64, 64), 64)
