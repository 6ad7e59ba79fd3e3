"""From the nodes that a user draws to requests for a session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .geometry import (
    flattened,
    grid_of,
    is_drawn,
    near_view,
    rectangle_in_view,
    roi_voxels,
    slice_axis,
    voxels_inside,
)
from .grid import Grid
from .plane import plane_grid
from .prompts import (
    Prompt,
    PromptError,
    PropagationPrompt,
    RegionPrompt,
    SlicePrompt,
    places,
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
    """A box, points, or both, as they are seen in a slice view.

    Args:
        roi_node: the box, a ``vtkMRMLMarkupsROINode``, whose depth does not matter; None, or one that is not drawn
            yet, for points alone.
        slice_node: the ``vtkMRMLSliceNode`` of the view.
        volume_node: what is segmented.
        positive_node: points in the object, a ``vtkMRMLMarkupsFiducialNode``; None for none.
        negative_node: points that are not; None for none.

    Returns:
        a prompt for the slice of the volume that the view shows; for a plane where the view is oblique.

    Raises:
        PromptError: there is neither a box nor, in this view, a positive point.
        GeometryError: nothing of the box, or not every point, is in the volume.
    """
    grid = grid_of(volume_node)
    axis = slice_axis(grid, slice_node)
    drawn = is_drawn(roi_node)
    outline = (
        rectangle_in_view(roi_node, slice_node) if drawn else near_view(grid, places(positive_node), slice_node, axis)
    )
    if len(outline) == 0:
        raise PromptError(
            "Nothing is drawn yet in this view. Draw a box around the object, or place points inside it, and move the "
            "mouse over the view."
        )
    flat = flattened(grid, outline, slice_node, axis)
    if flat is not None:
        around = voxels_inside(flat, outline)
        points = (points_in(node, grid, flat) for node in (positive_node, negative_node))
        return Request(slice_prompt(axis, around.low[axis], around if drawn else None, *points))
    plane = plane_grid(grid, slice_node)
    positive, negative = (points_on_plane(node, plane) for node in (positive_node, negative_node))
    box = voxels_inside(plane, outline) if drawn else None
    return Request(SlicePrompt(2, 0, box, positive, negative), plane)


def box_in_3d(roi_node: Any, slice_node: Any, volume_node: Any) -> Request:
    """A 3D box, segmented slice by slice along the axis that a view shows.

    Raises:
        PromptError: there is no box.
        GeometryError: nothing of the box is in the volume.
    """
    if not is_drawn(roi_node):
        raise PromptError(
            'The box is not drawn yet. Click "Draw box" and two opposite corners in a view, or choose an ROI.'
        )
    grid = grid_of(volume_node)
    return Request(RegionPrompt(slice_axis(grid, slice_node), roi_voxels(roi_node, grid)))


def propagation(item: SegmentedObject | None, reach: int | None = None) -> Request:
    """From the slices that an object was prompted in to those between and beside them.

    A slice goes out from the box that was drawn; where points were placed too, from the box of the mask that they made.

    Args:
        item: the object at hand.
        reach: the most slices on each side; None until the object ends.

    Raises:
        PromptError: the object has no mask in a slice of the volume along the axis of its last prompt.
    """
    boxes = []
    if item is not None and item.mask is not None and item.plane is None:
        axis = item.prompt.axis
        for (of, index), prompt in sorted(item.slices.items()):
            found = item.mask.in_slice(axis, index) if of == axis else None
            if found is not None:
                has_points = prompt.positive or prompt.negative
                boxes.append(found.box if prompt.box is None or has_points else prompt.box)
    if not boxes:
        raise PromptError(
            "Propagation starts from slices of the volume that show the object. Draw a box in a view that is parallel "
            'to the volume, and click "Segment slice".'
        )
    return Request(PropagationPrompt(axis, tuple(boxes), reach))


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
