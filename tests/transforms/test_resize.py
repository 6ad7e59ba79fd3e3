import pytest
import torch
from monai.transforms import Compose

from monai_cobot.networks.frame import PIXEL_MEAN, resize_longest_side
from monai_cobot.transforms import RandJitterBoxd, ResizeLongestSide, ResizeLongestSided, box_from_mask


@pytest.mark.parametrize(("shape", "inner"), [((30, 60), (32, 64)), ((60, 30), (64, 32)), ((100, 75), (64, 48))])
def test_the_image_is_scaled_and_padded_at_the_bottom_and_right_with_the_mean(shape: tuple, inner: tuple) -> None:
    image = torch.rand(1, *shape)
    framed = ResizeLongestSide(64)(image)
    height, width = inner
    mean = torch.tensor(PIXEL_MEAN)
    assert framed.shape == (3, 64, 64)
    assert torch.equal(framed[:, :height, :width], resize_longest_side(image, 64).expand(3, -1, -1))
    assert (framed[:, height:] == mean[:, None, None]).all()
    assert (framed[:, :, width:] == mean[:, None, None]).all()


def test_a_colour_image_keeps_its_channels() -> None:
    image = torch.rand(3, 40, 40)
    assert torch.equal(ResizeLongestSide(40)(image), image)


@pytest.mark.parametrize("shape", [(37, 90), (90, 37), (300, 211)])
def test_image_mask_and_box_are_scaled_alike(shape: tuple[int, int]) -> None:
    mask = torch.zeros(1, *shape)
    mask[0, 10:30, 15:35] = 1
    sample = {"image": mask.clone(), "label": mask, "box": box_from_mask(mask)}
    result = ResizeLongestSided(128)(sample)
    assert result["label"].shape == (1, 128, 128)
    assert set(result["label"].unique().tolist()) == {0, 1}
    assert (box_from_mask(result["label"]) - result["box"]).abs().max() <= 1
    x0, y0, x1, y1 = (round(side) for side in result["box"].tolist())
    inner = result["image"][0, y0 + 1 : y1 - 1, x0 + 1 : x1 - 1]
    assert inner.min() > 0.5  # what is bright in the image is the mask, but for the blur of the edge
    assert result["image"][0, : y0 - 1, x0:x1].max() == 0
    assert torch.equal(sample["label"], mask)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int16, torch.int64, torch.float32])
def test_a_mask_of_any_type_keeps_its_type_and_labels(dtype: torch.dtype) -> None:
    mask = (torch.arange(24).reshape(1, 4, 6) * 1000 // 23 * 30).to(dtype)
    resized = ResizeLongestSide(12).mask(mask)
    assert resized.dtype == dtype
    assert torch.equal(resized[:, :8:2, ::2], mask)
    assert not resized[:, 8:].any()


@pytest.mark.parametrize("shape", [(30, 60), (60, 30)])
def test_a_box_that_is_moved_after_resizing_does_not_reach_into_the_padding(shape: tuple[int, int]) -> None:
    recipe = Compose([ResizeLongestSided(64), RandJitterBoxd(max_jitter=30, direction="outwards")])
    sample = {"image": torch.rand(1, *shape), "box": torch.tensor([5.0, 5, shape[1] - 5, shape[0] - 5])}
    sides = torch.stack([recipe(sample)["box"] for _ in range(100)]).amax(dim=0)[2:]
    assert sides.tolist() == [64, 32] if shape[1] > shape[0] else [32, 64]


def test_a_sample_without_mask_and_box_is_resized_too() -> None:
    assert set(ResizeLongestSided(32)({"image": torch.rand(1, 8, 8)})) == {"image"}
