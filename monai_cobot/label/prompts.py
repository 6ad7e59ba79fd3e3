"""What a client asks for in the ``params`` of an inference request.

Voxels are (i, j, k) of the image as it was sent or lies in the studies; boxes are half-open.

========================  ============================================================================================
``slice_axis``            0, 1, 2 for i, j, k: along which slices follow one another; without, 2 for what is in a slice
                          and for ``boxes``, and for a 3D box and points in 3D the axis that the model was trained on
``slice``                 index of the slice; absent, null or negative for a 3D prompt
``box``                   ``[i0, j0, k0, i1, j1, k1]``; in a slice also ``[x0, y0, x1, y1]`` along its two axes
``roi``                   the same box as MONAI Label's clients send it: ``[imin, imax, jmin, jmax, kmin, kmax]`` (3D
                          Slicer; ends may be swapped) or ``[x0, y0, x1, y1]`` (CVAT)
``foreground``            ``[[i, j, k], ...]``: points in the object; in a slice also ``[x, y]``
``background``            ``[[i, j, k], ...]``: points that are not
``boxes``                 ``[[i0, j0, k0, i1, j1, k1], ...]``: propagate from these slices
``reach``                 the most slices beyond them; absent until the object ends. At most, it goes on to each side
                          by the object's own size in a slice: a long object wants boxes near both of its ends
========================  ============================================================================================

With a slice, the object is segmented in that slice. Without, a box is 3D and every slice within it is segmented; points
alone, and ``boxes``, are propagated from their slices until the object ends.

MONAI Label's module in 3D Slicer takes the slice of a ``roi`` from an offset in millimetres: where it does not lie in
the box, the box's middle is meant. OHIF sends points in a slice without its index.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from monai_cobot.inferers import Region, VoxelPrompt
from monai_cobot.inferers.voxel_prompts import Voxel

__all__ = ["PROTOCOL", "read_prompt"]

# Raised when a client that keeps to the table above would get another mask, or none; /info/ tells it to clients.
PROTOCOL = 1


def read_prompt(params: Mapping[str, Any], shape: Sequence[int], in_slices: bool = False) -> VoxelPrompt:
    """Read the params of a request.

    Args:
        params: as the table above says; what is not in it is passed over.
        shape: (I, J, K) of the file.
        in_slices: whether points and boxes without a slice are meant for one slice, as of a model of two dimensions.

    Raises:
        ValueError: there is no prompt, or it does not fit the image; says what is wrong.
    """
    axis = _whole(params["slice_axis"], "slice_axis") if params.get("slice_axis") is not None else None
    if axis not in (None, 0, 1, 2):
        raise ValueError(f"slice_axis is {axis}; it is 0, 1 or 2, for the axes i, j, k of the image.")
    along = 2 if axis is None else axis
    if params.get("boxes"):
        return _propagation(params, shape, along)
    index = params.get("slice")
    index = None if index is None or _whole(index, "slice") < 0 else int(index)
    if shape[along] == 1:
        index, in_slices = 0, True
    is_roi = not params.get("box")
    box = _box(params.get("roi") if is_roi else params["box"], is_roi, shape, along, index)
    foreground, background = (
        _points(params.get(name), name, shape, along, index) for name in ("foreground", "background")
    )
    if box is None and not foreground:
        raise ValueError("there is neither a box (box, roi or boxes) nor a foreground point: say where the object is.")
    if index is not None and not 0 <= index < shape[along] and box is None:
        raise ValueError(f"slice {index} is outside the image, which has {shape[along]} slices along axis {along}.")
    if index is not None or in_slices:
        return _in_slice(index, box, is_roi, foreground, background, along, shape)
    return VoxelPrompt(axis, None, box, foreground, background)


def _propagation(params: Mapping[str, Any], shape: Sequence[int], axis: int) -> VoxelPrompt:
    boxes = tuple(_six(box, "boxes", shape) for box in _list(params["boxes"], "boxes"))
    if any(box.shape[axis] != 1 for box in boxes):
        raise ValueError(f"boxes: each is one voxel thick along axis {axis} (slice_axis), in which slices are counted.")
    if len({box.low[axis] for box in boxes}) < len(boxes):
        raise ValueError("boxes: two of them are on one slice.")
    reach = None if params.get("reach") is None else _whole(params["reach"], "reach")
    if reach is not None and reach < 0:
        raise ValueError(f"reach is {reach}; it is 0 or more slices.")
    return VoxelPrompt(axis, boxes=boxes, reach=reach)


def _in_slice(
    index: int | None,
    box: Region | None,
    is_roi: bool,
    foreground: tuple[Voxel, ...],
    background: tuple[Voxel, ...],
    axis: int,
    shape: Sequence[int],
) -> VoxelPrompt:
    """The prompt in one slice; points in others are left out."""
    if box is not None:
        inside = range(box.low[axis], box.high[axis])
        middle = (box.low[axis] + box.high[axis]) // 2
        if index is None:
            index = foreground[-1][axis] if foreground and foreground[-1][axis] in inside else middle
        elif index not in inside:
            if not is_roi:
                raise ValueError(f"slice {index} is not in the box, which holds the slices {inside}.")
            index = middle
        low, high = list(box.low), list(box.high)
        low[axis], high[axis] = index, index + 1
        box = Region((low[0], low[1], low[2]), (high[0], high[1], high[2]))
    elif index is None:
        index = foreground[-1][axis]  # as OHIF does: the slice that was clicked last
    foreground, background = (
        tuple(point for point in points if point[axis] == index) for points in (foreground, background)
    )
    if box is None and not foreground:
        raise ValueError(f"none of the foreground points is in slice {index}.")
    return VoxelPrompt(axis, index, box, foreground, background)


def _box(numbers: Any, is_roi: bool, shape: Sequence[int], axis: int, index: int | None) -> Region | None:
    """A box of six or four numbers; None for none, or an empty list."""
    if not numbers:
        return None
    name = "roi" if is_roi else "box"
    if len(_list(numbers, name)) == 4:
        if index is None:
            raise ValueError(f"{name} has four numbers, those of a box in a slice: say which, as slice.")
        x0, y0, x1, y1 = _rising(numbers, ((0, 2), (1, 3)), name) if is_roi else numbers
        low, high = [x0, y0], [x1, y1]
        low.insert(axis, index)
        high.insert(axis, index + 1)
        return _six([*low, *high], name, shape)
    if not is_roi:
        return _six(numbers, name, shape)
    i0, i1, j0, j1, k0, k1 = _rising(numbers, ((0, 1), (2, 3), (4, 5)), name)
    return _six([i0, j0, k0, i1, j1, k1], name, shape)


def _rising(numbers: Sequence[Any], pairs: Sequence[tuple[int, int]], name: str) -> list[float]:
    """The numbers with each pair in order and at least one apart."""
    if len(numbers) != 2 * len(pairs):
        raise ValueError(f"{name} has {len(numbers)} numbers; a box has 4 in a slice, and 6 in 3D.")
    rising = [_number(number, name) for number in numbers]
    for low, high in pairs:
        rising[low], rising[high] = sorted((rising[low], rising[high]))
        rising[high] = max(rising[high], rising[low] + 1)
    return rising


def _six(numbers: Any, name: str, shape: Sequence[int]) -> Region:
    """A box of (i0, j0, k0, i1, j1, k1); what is outside the image is cut off."""
    if len(_list(numbers, name)) != 6:
        raise ValueError(f"{name} has {len(numbers)} numbers; a box has 4 in a slice, and 6 in 3D.")
    i0, j0, k0, i1, j1, k1 = (_number(number, name) for number in numbers)
    low, high = [math.floor(edge) for edge in (i0, j0, k0)], [math.ceil(edge) for edge in (i1, j1, k1)]
    try:
        return Region((low[0], low[1], low[2]), (high[0], high[1], high[2])).clipped(shape)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _points(value: Any, name: str, shape: Sequence[int], axis: int, index: int | None) -> tuple[Voxel, ...]:
    voxels = []
    for point in _list(value or [], name):
        numbers = [math.floor(_number(number, name) + 0.5) for number in _list(point, name)]
        if len(numbers) == 2 and index is not None:
            numbers.insert(axis, index)
        if len(numbers) != 3:
            raise ValueError(f"{name}: {point} is no point; a point is [i, j, k], in a slice also [x, y].")
        i, j, k = numbers
        if not all(0 <= number < length for number, length in zip(numbers, shape, strict=True)):
            raise ValueError(f"{name}: the point {point} is outside the image, which has {tuple(shape)} voxels.")
        voxels.append((i, j, k))
    return tuple(voxels)


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{name} is {value!r}; a list is expected.")
    return list(value)


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name}: {value!r} is no number.")
    return value


def _whole(value: Any, name: str) -> int:
    if _number(value, name) != int(value):
        raise ValueError(f"{name} is {value}; a whole number is expected.")
    return int(value)
