"""From what is drawn in Slicer's views to voxels of the volume: any orientation, spacing and linear transform.

All eight corners of a box are converted. Two opposite ones are enough only where the box and the volume are parallel.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .grid import Grid, VoxelBox, corners_of, transformed

# A face on a voxel's centre counts as inside, also after the rounding of a few transforms.
_ROUNDING = 1e-6


class GeometryError(ValueError):
    """Something drawn that cannot be brought into the volume, with the reason and what to do."""


def array_from_matrix(matrix: Any) -> np.ndarray:
    """A ``vtkMatrix4x4`` as an array (4, 4)."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def matrix_from_array(array: np.ndarray) -> Any:
    """An array (4, 4) as a ``vtkMatrix4x4``."""
    import vtk

    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(np.asarray(array, dtype=float).ravel())
    return matrix


def node_to_world(node: Any) -> np.ndarray:
    """(4, 4), from a node's own coordinates to the world, through all its parent transforms.

    Raises:
        GeometryError: one of them is not linear.
    """
    import vtk

    parent = node.GetParentTransformNode()
    if parent is None:
        return np.eye(4)
    if not parent.IsTransformToWorldLinear():
        raise GeometryError(
            f'"{node.GetName()}" is under the transform "{parent.GetName()}", which is not linear, so that its voxels '
            'have no regular grid in the world. Harden the transform in the module "Transforms", or remove it.'
        )
    matrix = vtk.vtkMatrix4x4()
    parent.GetMatrixTransformToWorld(matrix)
    return array_from_matrix(matrix)


def grid_of(volume_node: Any) -> Grid:
    """The grid of a volume node in the world.

    Raises:
        GeometryError: the volume holds no image, or is under a transform that is not linear.
    """
    import vtk

    image = volume_node.GetImageData()
    if image is None or 0 in image.GetDimensions():
        raise GeometryError(f'"{volume_node.GetName()}" holds no image. Choose a volume that is loaded.')
    matrix = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(matrix)
    return Grid(node_to_world(volume_node) @ array_from_matrix(matrix), image.GetDimensions())


def is_drawn(roi_node: Any) -> bool:
    """Whether there is a ROI that is placed."""
    return roi_node is not None and roi_node.GetNumberOfDefinedControlPoints() > 0 and max(roi_node.GetSize()) > 0


def roi_corners(roi_node: Any) -> np.ndarray:
    """The eight corners (8, 3) of a ``vtkMRMLMarkupsROINode`` in the world, its own rotation included.

    Raises:
        GeometryError: the ROI is not placed yet.
    """
    if not is_drawn(roi_node):
        raise GeometryError(f'The box "{roi_node.GetName()}" is not drawn yet. Click two opposite corners in a view.')
    half = np.array(roi_node.GetSize()) / 2
    return transformed(array_from_matrix(roi_node.GetObjectToWorldMatrix()), corners_of(-half, half))


def voxels_inside(grid: Grid, corners: np.ndarray) -> VoxelBox:
    """The voxels whose centres are between the least and the greatest index of some corners, clipped to the volume.

    Something thinner than a voxel has the voxels that its middle is in.

    Args:
        grid: of the volume.
        corners: (N, 3) in the world.

    Raises:
        GeometryError: nothing of it is in the volume.
    """
    indices = grid.to_ijk(corners)
    least, greatest = indices.min(axis=0), indices.max(axis=0)
    low = np.ceil(least - _ROUNDING).astype(int)
    high = np.floor(greatest + _ROUNDING).astype(int) + 1
    thin = low >= high
    # half a voxel belongs to the upper one, as it does for a slice view's offset
    low[thin] = np.floor((least + greatest)[thin] / 2 + 0.5).astype(int)
    high[thin] = low[thin] + 1
    low, high = np.maximum(low, 0), np.minimum(high, grid.dimensions)
    if (low >= high).any():
        raise GeometryError("What is drawn is outside the volume. Draw it over the volume that is chosen above.")
    return VoxelBox(tuple(low.tolist()), tuple(high.tolist()))


def roi_voxels(roi_node: Any, grid: Grid) -> VoxelBox:
    """The voxels of a volume that a 3D ROI encloses: `voxels_inside` of its eight corners.

    Raises:
        GeometryError: the ROI is not placed yet, or nothing of it is in the volume.
    """
    return voxels_inside(grid, roi_corners(roi_node))


def rectangle_in_view(roi_node: Any, slice_node: Any) -> np.ndarray:
    """A box as it is seen in a slice view: the corners (4, 3) in the world of its outline on the view's plane.

    Args:
        roi_node: a ``vtkMRMLMarkupsROINode``.
        slice_node: the ``vtkMRMLSliceNode`` of the view.

    Returns:
        the corners in order around the rectangle.

    Raises:
        GeometryError: the ROI is not placed yet.
    """
    slice_to_world = array_from_matrix(slice_node.GetSliceToRAS())
    flat = transformed(np.linalg.inv(slice_to_world), roi_corners(roi_node))[:, :2]
    (left, bottom), (right, top) = flat.min(axis=0), flat.max(axis=0)
    rectangle = np.array([[left, bottom, 0], [right, bottom, 0], [right, top, 0], [left, top, 0]])
    return transformed(slice_to_world, rectangle)


def slice_axis(grid: Grid, slice_node: Any) -> int:
    """The axis of the volume (0, 1, 2 for i, j, k) whose slices a slice view shows, or comes nearest to."""
    normal = array_from_matrix(slice_node.GetSliceToRAS())[:3, 2]
    # normals of the slices, which differ from the directions of the axes in a sheared volume
    normals = np.linalg.inv(grid.ijk_to_ras)[:3, :3]
    normals = normals / np.linalg.norm(normals, axis=1, keepdims=True)
    return int(np.abs(normals @ normal).argmax())


def flattened(grid: Grid, outline: np.ndarray, slice_node: Any, axis: int) -> Grid | None:
    """A grid sheared along an axis, in which the plane of a slice view is one slice of the volume.

    A view in standard orientation cuts a tilted scan a little obliquely. What is drawn in it is meant for the one slice
    that it shows, at every place of the view. Where the view is parallel to the slices, nothing is sheared.

    Args:
        grid: of the volume.
        outline: (N, 3) in the world, on the view's plane: where in the view something is drawn.
        slice_node: the ``vtkMRMLSliceNode`` of the view.
        axis: from `slice_axis`.

    Returns:
        the grid; None where the view is so oblique that the outline leaves the slice.
    """
    depths = grid.to_ijk(outline)[:, axis]
    middle = depths.mean()
    if np.abs(depths - middle).max() > 0.5:
        return None
    height = (np.linalg.inv(array_from_matrix(slice_node.GetSliceToRAS())) @ grid.ijk_to_ras)[2]
    shear = np.eye(4)
    shear[axis] = height / height[axis]
    shear[axis, 3] += middle
    return Grid(grid.ijk_to_ras @ np.linalg.inv(shear), grid.dimensions)


def near_view(grid: Grid, points: np.ndarray, slice_node: Any, axis: int) -> np.ndarray:
    """Those of some points (N, 3) that are at most half a slice from the plane of a view, put onto the plane: (M, 3).

    Args:
        grid: of the volume.
        points: (N, 3) in the world.
        slice_node: the ``vtkMRMLSliceNode`` of the view.
        axis: from `slice_axis`.
    """
    slice_to_world = array_from_matrix(slice_node.GetSliceToRAS())
    in_view = transformed(np.linalg.inv(slice_to_world), points)
    voxel = abs((np.linalg.inv(slice_to_world) @ grid.ijk_to_ras)[2, axis])
    near = in_view[np.abs(in_view[:, 2]) <= voxel / 2]
    return transformed(slice_to_world, near * [1, 1, 0])
