"""Masks that are kept no larger than they are, against masks of the whole volume."""

import numpy as np
import pytest

from monai_cobot.inferers.grid import Region
from monai_cobot.inferers.objects import MaskCrop, SegmentedObject

SHAPE = (9, 8, 7)
WHOLE = Region((0, 0, 0), SHAPE)


def some_region(random: np.random.Generator) -> Region:
    low = random.integers(0, SHAPE)
    high = random.integers(low, SHAPE) + 1
    return Region(tuple(low.tolist()), tuple(high.tolist()))


@pytest.mark.parametrize("seed", range(5))
def test_masks_in_regions_are_those_of_a_whole_volume_and_no_larger_than_they_are(seed: int) -> None:
    random = np.random.default_rng(seed)
    item, dense = SegmentedObject(1), np.zeros(SHAPE, dtype=bool)
    for _ in range(40):
        region = some_region(random)
        part = random.random(region.shape) < random.choice([0, 0.02, 0.5])
        item = item.with_mask(region, part)
        dense[region.slices] = part
        assert (item.mask is None) == (not dense.any())
        if item.mask is not None:
            assert item.mask.region == Region.around(dense)
            assert np.array_equal(item.mask.read(WHOLE), dense)
            asked = some_region(random)
            assert np.array_equal(item.mask.read(asked), dense[asked.slices])


def test_regions_that_do_not_meet_share_nothing() -> None:
    crop = MaskCrop(Region((0, 0, 0), (2, 2, 2)), np.ones((2, 2, 2), dtype=bool))
    for low in ((5, 0, 0), (0, 5, 0), (2, 2, 2)):
        assert not crop.read(Region(low, (7, 7, 7))).any()
