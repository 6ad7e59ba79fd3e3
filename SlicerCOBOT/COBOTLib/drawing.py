"""From the nodes that a user draws to requests for a session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .geometry import grid_of, rectangle_in_view, roi_voxels, slice_axis, slice_voxels, voxels_inside
from .grid import Grid, VoxelBox
from .plane import plane_grid
from .prompts import (
    Prompt,
    PromptError,
    PropagationPrompt,
    RegionPrompt,
    SlicePrompt,
    points_in,
    points_on_plane,
    slice_prompt,
)
from .session import SegmentedObject


@dataclass(frozen=True, eq=False)
class Request:
    """What `session.Session.segment` is asked for.

    Attributes:
        prompt: in voxels of the volume, or of the plane.
        plane: of an oblique view; None for slices of the volume.
    """

    prompt: Prompt
    plane: Grid | None = None


def box_in_view(roi_node: Any, slice_node: Any, volume_node: Any, positive_node: Any, negative_node: Any) -> Request:
    """A box, with points, as they are seen in a slice view.

    Args:
        roi_node: the box, a ``vtkMRMLMarkupsROINode``; its depth does not matter.
        slice_node: the ``vtkMRMLSliceNode`` of the view.
        volume_node: what is segmented.
        positive_node: points in the object, a ``vtkMRMLMarkupsFiducialNode``.
        negative_node: points that are not.

    Returns:
        a prompt for the slice of the volume that the view shows; for a plane where the view is oblique.

    Raises:
        GeometryError: the box is not drawn yet, or nothing of it, or not every point, is in the volume.
    """
    grid = grid_of(volume_node)
    rectangle = rectangle_in_view(roi_node, slice_node)
    axis = slice_axis(grid, slice_node)
    box = slice_voxels(grid, rectangle, axis)
    if box is not None:
        points = (points_in(node, grid) for node in (positive_node, negative_node))
        return Request(slice_prompt(axis, box.low[axis], box, *points))
    plane = plane_grid(grid, slice_node)
    positive, negative = (points_on_plane(node, plane) for node in (positive_node, negative_node))
    return Request(SlicePrompt(2, 0, voxels_inside(plane, rectangle), positive, negative), plane)


def box_in_3d(roi_node: Any, slice_node: Any, volume_node: Any) -> Request:
    """A 3D box, segmented slice by slice along the axis that a view shows.

    Raises:
        GeometryError: the box is not drawn yet, or nothing of it is in the volume.
    """
    grid = grid_of(volume_node)
    return Request(RegionPrompt(slice_axis(grid, slice_node), roi_voxels(roi_node, grid)))


def propagation(item: SegmentedObject | None, reach: int | None = None) -> Request:
    """From the slice that an object was last prompted in to its neighbours.

    Args:
        item: the object at hand.
        reach: the most slices on each side; None until the object ends.

    Raises:
        PromptError: the object has no mask in one slice of the volume.
    """
    if item is None or item.mask is None or not isinstance(item.prompt, SlicePrompt) or item.plane is not None:
        raise PromptError(
            "Propagation starts from one slice of the volume. Draw a box in a view that is parallel to the volume."
        )
    axis, index = item.prompt.axis, item.prompt.index
    box = item.prompt.box
    if box is None:
        low, high = list(item.mask.box.low), list(item.mask.box.high)
        low[axis], high[axis] = index, index + 1
        part = item.mask.clipped(VoxelBox(tuple(low), tuple(high)))
        cropped = None if part is None else part.cropped()
        if cropped is None:
            raise PromptError("Nothing was found in this slice. Draw a box around the object first.")
        box = cropped.box
    return Request(PropagationPrompt(axis, (box,), reach))


def window_preset(volume_node: Any) -> str:
    """The window in which a volume is shown, as an intensity preset.

    Raises:
        PromptError: the volume is not displayed, or its window has no width.
    """
    display = volume_node.GetDisplayNode()
    if display is None or display.GetWindow() <= 0:
        raise PromptError(
            f'"{volume_node.GetName()}" has no window to take over. Show it and set its window in the module '
            '"Volumes", or switch this option off.'
        )
    level, half = display.GetLevel(), display.GetWindow() / 2
    return f"window:{level - half:g},{level + half:g}"
