import numpy as np
import pytest
import torch

from monai_cobot.transforms import INTENSITY_PRESETS, ScaleIntensityPreset, ScaleIntensityPresetd
from monai_cobot.transforms.intensity import find_preset, intensity_range, scale_intensity


def test_sam_cobot_clips_ct_from_minus_500_to_1000() -> None:
    scaled = ScaleIntensityPreset("ct_sam_cobot")(np.array([-1024, -500, 250, 1000, 3000], dtype=np.int16))
    assert scaled.dtype == torch.float32
    assert torch.allclose(scaled, torch.tensor([0, 0, 0.5, 1, 1]))


@pytest.mark.parametrize("name", INTENSITY_PRESETS)
def test_every_preset_gives_values_from_0_to_1(name: str) -> None:
    image = np.random.default_rng(0).integers(0, 1500, (2, 30, 30)).astype(np.int16)
    scaled = ScaleIntensityPresetd("image", name)({"image": image})["image"]
    assert scaled.dtype == torch.float32
    assert scaled.min() >= 0
    assert scaled.max() <= 1
    assert scaled.std() > 0


def test_mr_is_measured_on_the_voxels_that_are_not_background() -> None:
    volume = np.zeros((1, 100, 100, 2), dtype=np.float32)
    volume[:, :10] = np.linspace(100, 300, 2000).reshape(1, 10, 100, 2)
    low, high = intensity_range(volume, "mr")
    assert low == pytest.approx(101, abs=0.2)
    assert high == pytest.approx(299, abs=0.2)


def test_a_window_can_be_given_by_its_ends() -> None:
    assert intensity_range(np.zeros(3), "window:-160,240") == (-160, 240)


@pytest.mark.parametrize("name", ["abdomen", "window:", "window:1", "window:5,5", "window:9,1", "window:nan,1", ""])
def test_an_unknown_preset_or_window_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="window"):
        find_preset(name)


@pytest.mark.parametrize("value", [0, 7])
def test_percentiles_of_an_image_without_contrast_are_refused(value: int) -> None:
    with pytest.raises(ValueError, match=r"contrast|0 everywhere"):
        intensity_range(np.full((1, 4, 4, 4), value), "mr")


def test_scaling_leaves_the_image_as_it_is() -> None:
    image = np.array([1.0, 2.0], dtype=np.float32)
    scale_intensity(image, 0, 10)
    assert image.tolist() == [1, 2]
