import re
import tracemalloc

import numpy as np
import pytest
from COBOTLib.grid import Grid, VoxelBox, VoxelMask, resampled


def test_a_box_picks_the_same_voxels_in_slicer_s_index_order_and_in_vtk_s():
    box = VoxelBox((1, 2, 3), (5, 4, 6))
    assert box.shape == (3, 2, 4)
    assert box.extent == (1, 4, 2, 3, 3, 5)
    assert VoxelBox.from_extent(box.extent) == box
    array = np.arange(10 * 9 * 8).reshape(10, 9, 8)  # (K, J, I)
    assert (array[box.slices] == array[3:6, 2:4, 1:5]).all()


def test_a_box_without_voxels_is_refused():
    with pytest.raises(ValueError, match="holds no voxel"):
        VoxelBox((0, 3, 0), (2, 3, 2))


def test_boxes_meet_and_unite():
    a, b = VoxelBox((0, 0, 0), (4, 4, 4)), VoxelBox((2, 2, 2), (6, 6, 6))
    assert a.intersection(b) == VoxelBox((2, 2, 2), (4, 4, 4))
    assert a.union(b) == VoxelBox((0, 0, 0), (6, 6, 6))
    assert a.intersection(VoxelBox((4, 0, 0), (5, 1, 1))) is None
    assert a.holds(VoxelBox((1, 1, 1), (4, 4, 4)))
    assert not a.holds(b)


def test_a_mask_cropped_to_its_foreground_says_the_same_of_every_voxel():
    array = np.zeros((6, 7, 8), bool)
    array[2:4, 3, 1:7] = True
    mask = VoxelMask(VoxelBox((10, 20, 30), (18, 27, 36)), array)
    cropped = mask.cropped()
    assert cropped.box == VoxelBox((11, 23, 32), (17, 24, 34))
    assert cropped.array.all()
    assert VoxelMask(mask.box, np.zeros_like(array)).cropped() is None


def test_a_mask_that_was_cropped_keeps_no_larger_array_alive():
    array = np.zeros((6, 7, 8), bool)
    array[2:4, 3, 1:7] = True
    cropped = VoxelMask(VoxelBox((0, 0, 0), (8, 7, 6)), array).cropped()
    assert cropped.array.base is None


def test_a_mask_clipped_to_a_volume_loses_only_what_is_outside():
    mask = VoxelMask(VoxelBox((-2, 0, 0), (2, 1, 1)), np.array([[[True, False, True, False]]]))
    clipped = mask.clipped(VoxelBox((0, 0, 0), (5, 5, 5)))
    assert clipped.box == VoxelBox((0, 0, 0), (2, 1, 1))
    assert clipped.array.tolist() == [[[True, False]]]
    assert mask.clipped(VoxelBox((3, 0, 0), (5, 5, 5))) is None


def test_a_mask_of_another_shape_or_type_than_its_box_is_refused():
    box = VoxelBox((0, 0, 0), (2, 3, 4))
    with pytest.raises(ValueError, match=re.escape("(4, 3, 2)")):
        VoxelMask(box, np.zeros((2, 3, 4), bool))
    with pytest.raises(ValueError, match="uint8"):
        VoxelMask(box, np.zeros((4, 3, 2), np.uint8))


def test_grids_whose_voxels_coincide_are_told_from_those_that_are_a_fraction_apart():
    ijk_to_ras = np.array([[0, -2, 0, 5], [1, 0, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]], dtype=float)
    whole = Grid(ijk_to_ras, (20, 20, 20))
    part = ijk_to_ras.copy()
    part[:3, 3] = (ijk_to_ras @ [4, 5, 6, 1])[:3]
    assert Grid(part, (3, 3, 3)).offset_in(whole) == (4, 5, 6)
    part[0, 3] += 0.1
    assert Grid(part, (3, 3, 3)).offset_in(whole) is None
    assert Grid(ijk_to_ras @ np.diag([1, 1, 1.01, 1]), (20, 20, 20)).offset_in(whole) is None


def test_resampling_takes_the_memory_of_the_voxels_as_a_mask_not_as_numbers():
    fine, coarse = Grid(np.diag([0.7, 0.7, 0.7, 1.0]), (120, 120, 120)), Grid(np.eye(4), (84, 84, 84))
    box = VoxelBox((10, 10, 10), (110, 110, 110))
    mask = VoxelMask(box, np.ones(box.shape, bool))
    tracemalloc.start()
    moved = resampled(mask, fine, coarse)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert moved.box == VoxelBox((7, 7, 7), (77, 77, 77))
    assert most < 3 * 120**3
