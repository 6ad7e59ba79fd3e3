import numpy as np
import pytest

from monai_cobot.data import volume_from_array
from monai_cobot.inferers import AdapterShelf, VolumeSession
from monai_cobot.label.uncertainty import image_uncertainty, mask_uncertainty


def test_certain_pixels_count_nothing_and_undecided_ones_a_bit():
    assert mask_uncertainty(np.full((4, 4), 40.0)) == pytest.approx(0, abs=1e-9)
    assert mask_uncertainty(np.zeros((4, 4))) == pytest.approx(1)
    assert mask_uncertainty(np.full((4, 4), -9.0)) == 1.0


def test_background_that_is_certain_leaves_a_small_object_as_uncertain_as_it_is():
    logits = np.full((50, 50), -20.0)
    logits[10:12, 10:12] = np.log(0.8 / 0.2)
    entropy = -0.8 * np.log2(0.8) - 0.2 * np.log2(0.2)
    assert mask_uncertainty(logits) == pytest.approx(entropy)


def test_the_uncertainty_of_an_image_is_the_mean_of_slices_away_from_its_ends(shelf: AdapterShelf):
    array = np.random.default_rng(0).integers(-100, 200, (30, 28, 9)).astype(np.int16)
    volume = volume_from_array(array, np.diag([-1.0, -1.0, 2.0, 1.0]))
    with VolumeSession(volume, shelf.base, "window:-100,200", look_ahead=False) as session:
        found = image_uncertainty(session)
        assert not session.objects
        expected = [
            mask_uncertainty(session.segment_slice("axial", index, (0, 0, 30, 28)).logits) for index in (2, 4, 6)
        ]
    assert found == pytest.approx(np.mean(expected))
    assert 0 < found < 1
