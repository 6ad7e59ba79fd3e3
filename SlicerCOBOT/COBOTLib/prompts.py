"""What a user draws, as an engine is told: in voxels (i, j, k) of the scan that is segmented."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .geometry import GeometryError
from .grid import Grid, VoxelBox

Voxel = tuple[int, int, int]


class PromptError(ValueError):
    """A prompt that cannot be segmented, with the reason and what to do."""


@dataclass(frozen=True)
class SlicePrompt:
    """An object in one slice: a box, points, or both.

    Attributes:
        axis: along which slices follow one another: 0, 1, 2 for i, j, k.
        index: of the slice.
        box: one voxel thick, in the slice.
        positive: voxels of the slice that are in the object.
        negative: voxels of the slice that are not.

    Raises:
        PromptError: there is neither a box nor a positive point, or something lies in another slice.
    """

    axis: int
    index: int
    box: VoxelBox | None = None
    positive: tuple[Voxel, ...] = ()
    negative: tuple[Voxel, ...] = ()

    def __post_init__(self) -> None:
        if self.box is None and not self.positive:
            raise PromptError("There is neither a box nor a positive point. Draw a box around the object first.")
        levels = {point[self.axis] for point in (*self.positive, *self.negative)}
        if self.box is not None:
            levels.update(range(self.box.low[self.axis], self.box.high[self.axis]))
        if levels != {self.index}:
            raise PromptError(
                f"Box and points of slice {self.index} lie in the slices {sorted(levels)}. Draw them in one slice."
            )


@dataclass(frozen=True)
class RegionPrompt:
    """An object in 3D, in every slice that a box holds.

    Attributes:
        axis: along which the slices follow one another: 0, 1, 2 for i, j, k.
        box: around the object.
    """

    axis: int
    box: VoxelBox


@dataclass(frozen=True)
class PropagationPrompt:
    """An object in 3D, from boxes on some of its slices to the slices beside and between them.

    Attributes:
        axis: along which the slices follow one another: 0, 1, 2 for i, j, k.
        boxes: each one voxel thick along the axis.
        reach: the most slices beyond the first and the last box; None until the object ends.

    Raises:
        PromptError: there is no box.
    """

    axis: int
    boxes: tuple[VoxelBox, ...]
    reach: int | None = None

    def __post_init__(self) -> None:
        if not self.boxes:
            raise PromptError("Nothing to propagate. Segment the object in one slice first.")


Prompt = SlicePrompt | RegionPrompt | PropagationPrompt


def points_in(markups_node: Any, grid: Grid, flat: Grid | None = None) -> tuple[Voxel, ...]:
    """The voxels that the points of a ``vtkMRMLMarkupsFiducialNode`` are in.

    Args:
        markups_node: the points; those that are not placed yet are passed over. None for none.
        grid: of the scan.
        flat: from `geometry.flattened`, for points that were placed in a view a little oblique; None for ``grid``.

    Raises:
        GeometryError: a point is outside the scan.
    """
    flat = flat or grid
    voxels = []
    for label, place in _placed(markups_node):
        voxel = _voxel_at(place, flat)
        if _is_inside(voxel, grid):
            voxels.append(voxel)
        elif not _is_inside(_voxel_at(place, grid), grid):
            raise GeometryError(
                f'The point "{label}" is outside the volume. Remove it, or place it on the volume that is chosen above.'
            )
    return tuple(voxels)


def points_on_plane(markups_node: Any, plane: Grid) -> tuple[Voxel, ...]:
    """The pixels of a plane's image that points are in; those beside the plane are left out."""
    voxels = (_voxel_at(place, plane) for _, place in _placed(markups_node))
    return tuple(voxel for voxel in voxels if _is_inside(voxel, plane))


def places(markups_node: Any) -> np.ndarray:
    """Where points are: (N, 3) in the world, without those that are not placed yet."""
    return np.array([place for _, place in _placed(markups_node)], dtype=float).reshape(-1, 3)


def _placed(markups_node: Any) -> list[tuple[str, tuple[float, float, float]]]:
    """Label and place in the world of each point that is placed, wherever it is."""
    if markups_node is None:
        return []
    return [
        (markups_node.GetNthControlPointLabel(index), markups_node.GetNthControlPointPositionWorld(index))
        for index in range(markups_node.GetNumberOfControlPoints())
        if markups_node.GetNthControlPointPositionStatus(index) == markups_node.PositionDefined
    ]


def _voxel_at(place: Any, grid: Grid) -> Voxel:
    i, j, k = np.floor(grid.to_ijk(np.array([place]))[0] + 0.5).astype(int).tolist()
    return i, j, k


def _is_inside(voxel: Voxel, grid: Grid) -> bool:
    return all(0 <= index < count for index, count in zip(voxel, grid.dimensions, strict=True))


def slice_prompt(axis: int, index: int, box: VoxelBox | None, positive: Any, negative: Any) -> SlicePrompt:
    """The prompt of one slice, of all the points that were placed anywhere: those in other slices are left out.

    Raises:
        PromptError: there is neither a box nor a positive point in the slice.
    """

    def here(voxels: tuple[Voxel, ...]) -> tuple[Voxel, ...]:
        return tuple(voxel for voxel in voxels if voxel[axis] == index)

    return SlicePrompt(axis, index, box, here(positive), here(negative))
