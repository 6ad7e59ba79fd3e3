import numpy as np
import pytest

from monai_cobot.inferers import Region, region_from_source, region_to_source
from monai_cobot.transforms import SLICE_AXES, take_slice
from tests.inferers.conftest import VolumeIn


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "PIR", "SLA", "AIL"])
def test_a_region_of_the_files_grid_holds_the_same_voxels_in_the_lps_frame(volume_in: VolumeIn, orientation: str):
    volume = volume_in(orientation)
    marked = np.zeros(volume.source_shape, dtype=np.uint8)
    region = Region((2, 5, 3), (9, 7, 12))
    marked[region.slices] = 1
    turned = region_from_source(region, volume)
    i, j, k = np.nonzero(marked)
    world = np.stack([i, j, k, np.ones_like(i)]).T @ volume.source_affine.T
    lps = np.round(world @ np.linalg.inv(volume.affine).T)[:, :3]
    assert tuple(lps.min(0)) == turned.low
    assert tuple(lps.max(0) + 1) == turned.high
    assert region_to_source(turned, volume) == region


@pytest.mark.parametrize("axis", SLICE_AXES)
def test_the_box_of_a_region_is_where_its_slices_show_it(axis: str):
    region, shape = Region((2, 5, 3), (9, 7, 12)), (20, 21, 22)
    volume = np.zeros((1, *shape), dtype=bool)
    volume[0][region.slices] = True
    x0, y0, x1, y1 = map(int, region.box(axis, shape))
    for index in region.indices(axis):
        plane = take_slice(volume, axis, index)[0]
        assert plane[y0:y1, x0:x1].all()
        assert plane.sum() == (y1 - y0) * (x1 - x0)


def test_regions_are_clipped_to_the_volume_and_refused_outside():
    assert Region((-3, 2, 0), (4, 99, 5)).clipped((10, 10, 10)) == Region((0, 2, 0), (4, 10, 5))
    with pytest.raises(ValueError, match="outside the volume"):
        Region((10, 0, 0), (12, 4, 5)).clipped((10, 10, 10))
    with pytest.raises(ValueError, match="empty or inverted"):
        Region((4, 0, 0), (4, 4, 5))


def test_the_region_around_a_mask_is_the_smallest_one():
    mask = np.zeros((5, 6, 7), dtype=bool)
    assert Region.around(mask) is None
    mask[1, 2, 3] = mask[3, 2, 6] = True
    assert Region.around(mask) == Region((1, 2, 3), (4, 3, 7))
