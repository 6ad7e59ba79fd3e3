import tracemalloc

import numpy as np
import pytest
from COBOTLib.geometry import GeometryError, grid_of, rectangle_in_view, voxels_inside
from COBOTLib.grid import Grid, VoxelBox, VoxelMask
from COBOTLib.plane import cut_plane, paint_plane, plane_grid
from spaces import AXIAL, OBLIQUE, SPACES, rotation, space


def voxel_centres(grid):
    """(K, J, I, 3), in the world."""
    k, j, i = np.indices(grid.dimensions[::-1])
    return np.stack([i, j, k, np.ones_like(i)], axis=-1) @ grid.ijk_to_ras.T[:, :3]


def middle_of(grid):
    return grid.to_ras((np.array(grid.dimensions) - 1)[None] / 2)[0]


@pytest.mark.parametrize("name", SPACES)
def test_the_image_on_an_oblique_plane_shows_the_volume_at_each_pixel_s_place(mrml, add_volume, add_view, name):
    ijk_to_ras = SPACES[name]
    volume = add_volume(np.zeros((20, 24, 28), np.float32), ijk_to_ras)
    grid = grid_of(volume)
    slope = np.array([2.0, -3.0, 0.5])  # a field that linear interpolation gives exactly
    values = mrml.util.arrayFromVolume(volume)
    values[:] = voxel_centres(grid) @ slope
    directions = rotation((1, 1, 0), 33)
    plane = plane_grid(grid, add_view(middle_of(grid), directions[:, 0], directions[:, 1]))
    image = cut_plane(volume, grid, plane)
    assert image.shape == plane.dimensions[::-1]
    places = voxel_centres(plane)[0]
    indices = grid.to_ijk(places.reshape(-1, 3)).reshape(places.shape)
    inside = ((indices >= 0) & (indices <= np.array(grid.dimensions) - 1)).all(-1)
    assert inside.mean() > 0.2
    np.testing.assert_allclose(image[0][inside], (places @ slope)[inside], atol=1e-3 * np.abs(values).max())
    outside = ((indices < -1) | (indices > np.array(grid.dimensions))).any(-1)
    assert (image[0][outside] == values.min()).all()


def test_the_image_of_a_plane_covers_the_volume_and_no_more(add_volume, add_view):
    grid = grid_of(add_volume(np.zeros((30, 20, 10), np.int16), space(AXIAL, (2, 1, 1), (0, 0, 0))))
    plane = plane_grid(grid, add_view(middle_of(grid)))
    assert plane.dimensions == (20, 20, 1)  # 10 voxels of 2 mm and 20 of 1 mm
    assert np.linalg.det(plane.ijk_to_ras) > 0


def test_a_plane_beside_the_volume_is_refused(add_volume, add_view):
    grid = grid_of(add_volume(np.zeros((4, 4, 4), np.int16)))
    with pytest.raises(GeometryError, match="Scroll to where the volume is"):
        plane_grid(grid, add_view((0, 0, 9)))


def test_a_mask_on_a_plane_parallel_to_the_volume_is_one_voxel_thick(add_volume, add_view):
    ijk_to_ras = SPACES["axial"]
    grid = grid_of(add_volume(np.zeros((9, 20, 20), np.int16), ijk_to_ras))
    for offset in (0.0, 0.3, 0.5, -0.5):
        view = add_view((ijk_to_ras @ [10, 10, 4 + offset, 1])[:3])
        plane = plane_grid(grid, view)
        rectangle = grid.to_ras(
            np.array([[5, 6, 4 + offset], [8, 6, 4 + offset], [8, 9, 4 + offset], [5, 9, 4 + offset]])
        )
        box = voxels_inside(plane, rectangle)
        painted = paint_plane(VoxelMask(box, np.ones(box.shape, bool)), plane, grid)
        assert painted.array.all()
        k = int(np.floor(4 + offset + 0.5))
        assert painted.box == VoxelBox((5, 6, k), (9, 10, k + 1))


@pytest.mark.parametrize("name", ["axial", "oblique anisotropic", "left-handed"])
def test_a_mask_painted_from_an_oblique_plane_is_seen_there_without_holes(add_volume, add_view, name):
    grid = grid_of(add_volume(np.zeros((24, 26, 28), np.int16), SPACES[name]))
    directions = OBLIQUE @ rotation((1, 0, 0), 40)
    plane = plane_grid(grid, add_view(middle_of(grid), directions[:, 0], directions[:, 1]))
    width, height, _ = plane.dimensions
    row, column = np.ogrid[:height, :width]
    disc = ((row - height / 2) ** 2 + (column - width / 2) ** 2 < (min(width, height) / 5) ** 2)[None]
    painted = paint_plane(VoxelMask(plane.box, disc), plane, grid)

    whole = np.zeros(grid.dimensions[::-1], bool)
    whole[painted.box.slices] = painted.array
    # what the view shows: the voxel nearest to each pixel; half a voxel from the rim it may be either way
    places = voxel_centres(plane)[0]
    indices = np.floor(grid.to_ijk(places.reshape(-1, 3)) + 0.5).astype(int).reshape(places.shape)
    inside = ((indices >= 0) & (indices < grid.dimensions)).all(-1)
    seen = np.zeros((height, width), bool)
    seen[inside] = whole[tuple(indices[inside].T[::-1])]
    distance = np.hypot(row - height / 2, column - width / 2) - min(width, height) / 5
    rim = np.linalg.norm(grid.spacing) / 2 / grid.spacing.min() + 1
    assert seen[inside & (distance < -rim)].all()
    assert not seen[distance > rim].any()
    # and nothing is painted that the plane does not go through
    heights = np.abs((voxel_centres(grid)[whole] - middle_of(grid)) @ directions[:, 2])
    assert heights.max() <= np.linalg.norm(grid.spacing) / 2 + 1e-6


def test_painting_a_plane_takes_the_memory_of_the_voxels_as_a_mask_not_as_numbers():
    grid = Grid(np.eye(4), (90, 90, 90))
    directions = space(rotation((1, 1, 0), 40), (1, 1, 1), (-10, -10, 45))
    plane = Grid(directions, (120, 120, 1))
    mask = VoxelMask(plane.box, np.ones(plane.box.shape, bool))
    tracemalloc.start()
    painted = paint_plane(mask, plane, grid)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert painted.array.any()
    assert most < 4 * 90**3


def test_a_box_drawn_in_an_oblique_view_has_the_pixels_under_it(add_volume, add_roi, add_view):
    grid = grid_of(add_volume(np.zeros((40, 40, 40), np.int16)))
    directions = rotation((1, 0, 0), 30)
    view = add_view(middle_of(grid), directions[:, 0], directions[:, 1])
    plane = plane_grid(grid, view)
    low, high = np.array([10, 12, 0]), np.array([20, 31, 1])
    faces = plane.to_ras(np.array([low - 0.5, high - 0.5]))
    size = np.abs((faces[1] - faces[0]) @ directions)
    rectangle = rectangle_in_view(add_roi(faces.mean(0), size, directions), view)
    assert voxels_inside(plane, rectangle) == VoxelBox(tuple(low.tolist()), tuple(high.tolist()))


def test_an_empty_mask_paints_nothing(add_volume, add_view):
    grid = grid_of(add_volume(np.zeros((4, 4, 4), np.int16)))
    plane = plane_grid(grid, add_view((2, 2, 2)))
    assert paint_plane(VoxelMask(plane.box, np.zeros(plane.box.shape, bool)), plane, grid) is None
