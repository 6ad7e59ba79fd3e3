import itertools

import numpy as np
import pytest
from COBOTLib.geometry import (
    GeometryError,
    flattened,
    grid_of,
    rectangle_in_view,
    roi_corners,
    roi_voxels,
    slice_axis,
    voxels_inside,
)
from COBOTLib.grid import VoxelBox
from spaces import OBLIQUE, SPACES, rotation, space

DIMENSIONS = (12, 10, 8)


@pytest.fixture(params=SPACES.values(), ids=SPACES)
def ijk_to_ras(request):
    return request.param


@pytest.fixture
def volume(add_volume, ijk_to_ras):
    return add_volume(np.zeros(DIMENSIONS[::-1], np.int16), ijk_to_ras)


def center_and_size(ijk_to_ras, low, high):
    """A box that is parallel to the volume, from the faces of its first voxel to those of its last."""
    middle = (np.array(low) + np.array(high) - 1) / 2
    center = (ijk_to_ras @ [*middle, 1])[:3]
    spacing = np.linalg.norm(ijk_to_ras[:3, :3], axis=0)
    return center, (np.array(high) - np.array(low)) * spacing, ijk_to_ras[:3, :3] / spacing


def test_a_parallel_roi_encloses_exactly_its_voxels_in_every_orientation(volume, add_roi, ijk_to_ras):
    for low, high in [((2, 3, 1), (7, 9, 5)), ((0, 0, 0), DIMENSIONS), ((4, 4, 4), (5, 5, 5))]:
        center, size, axes = center_and_size(ijk_to_ras, low, high)
        assert roi_voxels(add_roi(center, size, axes), grid_of(volume)) == VoxelBox(low, high)


def test_an_roi_in_any_rotation_encloses_the_voxels_between_its_eight_corners(volume, add_roi, ijk_to_ras):
    axes, size = rotation((3, -1, 2), 51), np.array([4.0, 6.0, 9.0])
    center = (ijk_to_ras @ [5, 5, 4, 1])[:3]
    signs = itertools.product((-0.5, 0.5), repeat=3)
    corners = np.array([center + axes @ (size * sign) for sign in signs])
    indices = np.array([np.linalg.solve(ijk_to_ras, [*corner, 1])[:3] for corner in corners])
    centres = np.stack(np.meshgrid(*map(np.arange, DIMENSIONS), indexing="ij"), axis=-1).reshape(-1, 3)
    inside = centres[((centres >= indices.min(0)) & (centres <= indices.max(0))).all(1)]
    box = roi_voxels(add_roi(center, size, axes), grid_of(volume))
    assert box == VoxelBox(tuple(inside.min(0)), tuple(inside.max(0) + 1))


def test_the_voxels_stay_the_same_when_volume_and_roi_move_together(volume, add_roi, add_transform, ijk_to_ras):
    low, high = (2, 3, 1), (7, 9, 5)
    roi = add_roi(*center_and_size(ijk_to_ras, low, high))
    moved = space(rotation((0, 1, 1), 25), (1.1, 1.1, 1.1), (50, -60, 70))
    add_transform(volume, moved)
    with pytest.raises(GeometryError, match="outside the volume"):
        roi_voxels(roi, grid_of(volume))
    add_transform(roi, moved)
    assert roi_voxels(roi, grid_of(volume)) == VoxelBox(low, high)


def test_the_corners_are_those_that_slicer_draws_under_a_transform_that_shears(mrml, add_roi, add_transform):
    roi = add_roi((1, 2, 3), (4, 5, 6), OBLIQUE)
    add_transform(roi, space(rotation((0, 1, 1), 25), (1.1, 0.7, 1.3), (5, -6, 7)))
    drawn = roi.CreateROIBoxPolyDataWorld()
    points = np.array([drawn.GetPoint(n) for n in range(drawn.GetNumberOfPoints())])
    corners = roi_corners(roi)
    distances = np.linalg.norm(points[:, None] - corners[None], axis=-1)
    assert distances.min(axis=0).max() < 1e-4
    assert distances.min(axis=1).max() < 1e-4


def test_chains_of_transforms_are_followed_to_the_world(volume, add_roi, add_transform, ijk_to_ras):
    outer = space(rotation((1, 0, 0), 90), (1, 1, 1), (0, 0, 100))
    inner = space(rotation((0, 0, 1), 30), (1, 1, 1), (5, 0, 0))
    add_transform(add_transform(volume, inner), outer)
    low, high = (1, 1, 1), (4, 3, 2)
    roi = add_roi(*center_and_size(outer @ inner @ ijk_to_ras, low, high))
    assert roi_voxels(roi, grid_of(volume)) == VoxelBox(low, high)


def test_what_is_outside_the_volume_is_clipped(volume, add_roi, ijk_to_ras):
    partly = add_roi(*center_and_size(ijk_to_ras, (-5, 7, 2), (3, 30, 4)))
    assert roi_voxels(partly, grid_of(volume)) == VoxelBox((0, 7, 2), (3, 10, 4))
    wholly = add_roi(*center_and_size(ijk_to_ras, (13, 0, 0), (15, 5, 5)))
    with pytest.raises(GeometryError, match="Draw it over the volume"):
        roi_voxels(wholly, grid_of(volume))


def test_an_roi_thinner_than_a_voxel_has_the_voxel_that_it_is_in(volume, add_roi, ijk_to_ras):
    spacing = np.linalg.norm(ijk_to_ras[:3, :3], axis=0)
    center = (ijk_to_ras @ [4.3, 5.6, 3.3, 1])[:3]
    roi = add_roi(center, 0.1 * spacing, ijk_to_ras[:3, :3] / spacing)
    assert roi_voxels(roi, grid_of(volume)) == VoxelBox((4, 6, 3), (5, 7, 4))


def test_an_roi_that_is_not_drawn_yet_says_how_to_draw_it(mrml):
    roi = mrml.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Box")
    with pytest.raises(GeometryError, match="Click two opposite corners"):
        roi_corners(roi)


def test_a_volume_without_an_image_and_one_under_a_warp_are_refused(mrml, add_volume):
    empty = mrml.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Nothing")
    with pytest.raises(GeometryError, match='"Nothing" holds no image'):
        grid_of(empty)
    warped = add_volume(np.zeros((2, 2, 2), np.int16))
    warp = mrml.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "Breathing")
    warped.SetAndObserveTransformNodeID(warp.GetID())
    with pytest.raises(GeometryError, match='"Breathing", which is not linear'):
        grid_of(warped)


def slice_voxels(grid, rectangle, view):
    """The voxels of the one slice that a rectangle in a view is meant for."""
    flat = flattened(grid, rectangle, view, slice_axis(grid, view))
    return None if flat is None else voxels_inside(flat, rectangle)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_box_drawn_in_a_view_along_any_axis_has_the_voxels_of_that_slice(volume, add_roi, add_view, ijk_to_ras, axis):
    grid = grid_of(volume)
    right, up = (ijk_to_ras[:3, other] for other in range(3) if other != axis)
    low, high = [2, 3, 1], [7, 9, 5]
    on_slice = [0.0, 0.0, 0.0]
    on_slice[axis] = 4.4  # anywhere in slice 4
    view = add_view(
        (ijk_to_ras @ [*on_slice, 1])[:3], right / np.linalg.norm(right), up / np.linalg.norm(up)
    )  # where the box is along the normal does not matter: it is drawn on what is seen
    rectangle = rectangle_in_view(add_roi(*center_and_size(ijk_to_ras, low, high)), view)
    assert slice_axis(grid, view) == axis
    low[axis], high[axis] = 4, 5
    assert slice_voxels(grid, rectangle, view) == VoxelBox(tuple(low), tuple(high))


def test_a_slice_offset_in_millimetres_is_not_taken_for_an_index(add_volume, add_roi, add_view):
    ijk_to_ras = space(np.diag([-1.0, -1.0, 1.0]), (1, 1, 5), (50, 50, -15))
    grid = grid_of(add_volume(np.zeros((100, 20, 20), np.int16), ijk_to_ras))
    view = add_view((0, 0, 260))
    rectangle = rectangle_in_view(add_roi((45, 45, 260), (4, 4, 4)), view)
    assert slice_voxels(grid, rectangle, view) == VoxelBox((3, 3, 55), (8, 8, 56))


def test_a_view_so_oblique_that_the_box_leaves_its_slice_is_told_apart(add_volume, add_roi, add_view):
    grid = grid_of(add_volume(np.zeros((40, 40, 40), np.int16)))
    tilted = rotation((1, 0, 0), 2)
    view = add_view((20, 20, 20), tilted[:, 0], tilted[:, 1])
    small = rectangle_in_view(add_roi((20, 20, 20), (7, 7, 7), tilted), view)
    large = rectangle_in_view(add_roi((20, 20, 20), (36, 36, 36), tilted), view)
    assert slice_axis(grid, view) == 2
    assert slice_voxels(grid, small, view) == VoxelBox((17, 17, 20), (24, 24, 21))
    assert slice_voxels(grid, large, view) is None


def test_the_rectangle_of_a_turned_box_is_its_outline_on_the_view(add_roi, add_view):
    point = np.array([1.0, 2.0, 3.0])
    view = add_view(point, OBLIQUE[:, 0], OBLIQUE[:, 1])
    turned = OBLIQUE @ rotation((0, 0, 1), 45)
    rectangle = rectangle_in_view(add_roi(point + 50 * OBLIQUE[:, 2], (2, 2, 1), turned), view)
    half = np.sqrt(2)
    expected = [point + OBLIQUE @ [x, y, 0] for x, y in [(-half, -half), (half, -half), (half, half), (-half, half)]]
    np.testing.assert_allclose(rectangle, expected, atol=1e-9)
