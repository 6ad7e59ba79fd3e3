"""Oblique views: a plane cut out of a volume, and its mask painted back onto voxels."""

from __future__ import annotations

from typing import Any

import numpy as np

from .geometry import GeometryError, array_from_matrix, matrix_from_array
from .grid import Grid, VoxelBox, VoxelMask, corners_of, transformed


def plane_grid(grid: Grid, slice_node: Any) -> Grid:
    """The grid of an image, one voxel thick, on the plane of a slice view: it covers all of the volume that is there.

    Its pixels are squares with the side of the volume's smallest voxel size, i to the right of the view and j up.

    Raises:
        GeometryError: the plane does not meet the volume.
    """
    view = array_from_matrix(slice_node.GetSliceToRAS())
    directions = view.copy()
    directions[:3, 2] = np.cross(view[:3, 0], view[:3, 1])  # right-handed, which every file format holds
    outline = _outline(grid, view)
    if len(outline) < 3:
        raise GeometryError("The slice view does not meet the volume. Scroll to where the volume is.")
    flat = transformed(np.linalg.inv(directions), outline)[:, :2]
    spacing = float(grid.spacing.min())
    low, high = flat.min(axis=0), flat.max(axis=0)
    width, height = (max(1, int(np.ceil(side / spacing - 1e-6))) for side in high - low)
    ijk_to_view = np.diag([spacing, spacing, spacing, 1.0])
    ijk_to_view[:2, 3] = low + spacing / 2
    return Grid(directions @ ijk_to_view, (width, height, 1))


def _outline(grid: Grid, view: np.ndarray) -> np.ndarray:
    """Where a plane meets the edges of a volume's bounding box: points (N, 3) in the world."""
    corners = transformed(grid.ijk_to_ras, corners_of(np.full(3, -0.5), np.array(grid.dimensions) - 0.5))
    height = transformed(np.linalg.inv(view), corners)[:, 2]
    points = []
    for a in range(8):
        for b in (a | 1, a | 2, a | 4):  # corners_of counts its corners in binary
            if a != b and height[a] * height[b] <= 0 and height[a] != height[b]:
                part = height[a] / (height[a] - height[b])
                points.append(corners[a] + part * (corners[b] - corners[a]))
    return np.array(points)


def cut_plane(volume_node: Any, grid: Grid, plane: Grid) -> np.ndarray:
    """The image on a plane, interpolated linearly: (1, H, W) in the volume's type, its least value outside the volume.

    Args:
        volume_node: with one component a voxel.
        grid: of the volume, from `geometry.grid_of`.
        plane: from `plane_grid`.
    """
    import vtk
    from vtkmodules.util.numpy_support import vtk_to_numpy

    plane_to_volume = vtk.vtkTransform()
    plane_to_volume.SetMatrix(matrix_from_array(np.linalg.inv(grid.ijk_to_ras) @ plane.ijk_to_ras))
    image = volume_node.GetImageData()
    reslice = vtk.vtkImageReslice()
    reslice.SetInputData(image)
    reslice.SetResliceTransform(plane_to_volume)
    reslice.SetInterpolationModeToLinear()
    reslice.SetBackgroundLevel(image.GetScalarRange()[0])
    reslice.SetOutputSpacing(1, 1, 1)
    reslice.SetOutputOrigin(0, 0, 0)
    reslice.SetOutputExtent(0, plane.dimensions[0] - 1, 0, plane.dimensions[1] - 1, 0, 0)
    reslice.Update()
    width, height, _ = plane.dimensions
    return vtk_to_numpy(reslice.GetOutput().GetPointData().GetScalars()).reshape(1, height, width).copy()


def paint_plane(mask: VoxelMask, plane: Grid, grid: Grid) -> VoxelMask | None:
    """The voxels of a volume that a mask on a plane goes through.

    A voxel is painted if the plane meets it and the pixel at the foot of its centre is in the mask: without holes in
    the view, and never two voxels thick where the view is parallel to the volume.

    Args:
        mask: one voxel thick, in the grid of the plane.
        plane: from `plane_grid`.
        grid: of the volume.

    Returns:
        the mask in the volume; None where it holds no voxel.
    """
    cropped = mask.cropped()
    if cropped is None:
        return None
    around = transformed(
        np.linalg.inv(grid.ijk_to_ras) @ plane.ijk_to_ras,
        corners_of(np.array(cropped.box.low) - 1.0, np.array(cropped.box.high, dtype=float)),
    )
    low = np.floor(around.min(axis=0)).astype(int) - 1
    high = np.ceil(around.max(axis=0)).astype(int) + 2
    box = VoxelBox(tuple(low.tolist()), tuple(high.tolist())).intersection(grid.box)
    if box is None:
        return None
    to_plane = np.linalg.inv(plane.ijk_to_ras) @ grid.ijk_to_ras
    # how far from its centre a voxel reaches along the plane's normal, in pixels of the plane
    reach = np.abs(to_plane[2, :3]).sum() / 2
    (i0, j0, _), (i1, j1, _) = cropped.box.low, cropped.box.high
    j, i = np.ogrid[box.slices[1:]]
    painted = np.zeros(box.shape, dtype=bool)
    for number, k in enumerate(range(box.low[2], box.high[2])):  # the memory of a slice is enough
        z = to_plane[2, 0] * i + to_plane[2, 1] * j + to_plane[2, 2] * k + to_plane[2, 3]
        near = np.nonzero((z >= -reach) & (z < reach))
        places = np.stack([near[1] + box.low[0], near[0] + box.low[1], np.full(len(near[0]), k)], axis=1)
        column, row, _ = np.floor(transformed(to_plane, places) + 0.5).astype(int).T
        inside = (column >= i0) & (column < i1) & (row >= j0) & (row < j1)
        found = np.zeros(len(inside), dtype=bool)
        found[inside] = cropped.array[0, row[inside] - j0, column[inside] - i0]
        painted[number][near] = found
    return VoxelMask(box, painted).cropped()
