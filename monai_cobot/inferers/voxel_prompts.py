"""Prompts in voxels of the file, as programs around a volume count them, for a session that counts in its own frame."""

from __future__ import annotations

from dataclasses import dataclass

from monai_cobot.data import Volume
from monai_cobot.inferers.cancel import CancelToken, Progress
from monai_cobot.inferers.grid import Box, Region, region_from_source, slice_axis_from_source
from monai_cobot.inferers.prompts import Point
from monai_cobot.inferers.session import VolumeSession
from monai_cobot.transforms import take_slice

__all__ = ["VoxelPrompt", "segment_prompt"]

Voxel = tuple[int, int, int]


@dataclass(frozen=True)
class VoxelPrompt:
    """A prompt in voxels of the file.

    Attributes:
        axis: along which slices follow one another: 0, 1, 2 for i, j, k; None for the model's own axis.
        index: of the slice along ``axis``, which is then given; None for a 3D prompt.
        box: around the object; one voxel thick in a slice.
        foreground, background: points in the object, and points that are not; in a slice, of that slice.
        boxes: to propagate from, each one voxel thick, without anything else.
        reach: the most slices beyond ``boxes``.

    Raises:
        ValueError: nothing says where the object is, or what does is not in the slice.
    """

    axis: int | None = None
    index: int | None = None
    box: Region | None = None
    foreground: tuple[Voxel, ...] = ()
    background: tuple[Voxel, ...] = ()
    boxes: tuple[Region, ...] = ()
    reach: int | None = None

    def __post_init__(self) -> None:
        if self.axis not in (None, 0, 1, 2):
            raise ValueError(f"axis is {self.axis}; it is 0, 1 or 2, for the axes i, j, k of the file, or None.")
        beside_boxes = (self.index, self.box, *self.foreground, *self.background)
        if self.boxes and any(each is not None for each in beside_boxes):
            raise ValueError("Boxes to propagate from take no index, box or points beside them: give one or the other.")
        if self.box is None and not self.foreground and not self.boxes:
            raise ValueError("There is neither a box nor a foreground point: say where the object is.")
        if self.index is not None:
            self._check_slice(self.index)

    def _check_slice(self, index: int) -> None:
        if self.axis is None:
            raise ValueError(f"Slice {index} of which axis? Give axis as well: 0, 1 or 2, for i, j, k.")
        slices = {voxel[self.axis] for voxel in (*self.foreground, *self.background)}
        if self.box is not None:
            slices.update(range(self.box.low[self.axis], self.box.high[self.axis]))
        if slices != {index}:
            raise ValueError(
                f"The box and points of slice {index} along axis {self.axis} lie in the slices {sorted(slices)}: give "
                "those of the slice alone, or no index for a 3D prompt."
            )


def segment_prompt(
    session: VolumeSession,
    prompt: VoxelPrompt,
    label: int = 1,
    cancel: CancelToken | None = None,
    progress: Progress | None = None,
) -> None:
    """Segment what a prompt says as an object of a session.

    In a slice, that slice; a 3D box, every slice within it; points alone, and ``boxes``, are propagated from their
    slices until the object ends.

    Args:
        session: over the image.
        prompt: where the object is.
        label: of the new object.
        cancel: stops it.
        progress: of work on many slices, is told the slices done and to do.

    Raises:
        ValueError: the prompt does not fit.
        Cancelled: if so asked.
    """
    volume = session.volume
    axis = session.model.axis if prompt.axis is None else slice_axis_from_source(prompt.axis, volume)
    if prompt.boxes:
        drawn = dict(_on_slice(box, axis, volume) for box in prompt.boxes)
        limits = None
        if prompt.reach is not None:
            limits = range(min(drawn) - prompt.reach, max(drawn) + prompt.reach + 1)
        session.propagate(axis, drawn, label, limits, cancel=cancel, progress=progress)
        return
    clicks: dict[int, list[Point]] = {}
    for voxels, inside in ((prompt.foreground, True), (prompt.background, False)):
        for voxel in voxels:
            at, point = _click(voxel, axis, volume, inside)
            clicks.setdefault(at, []).append(point)
    if prompt.index is not None:
        at = _on_slice(prompt.box or _voxel(prompt.foreground[0]), axis, volume)[0]
        box = None if prompt.box is None else _on_slice(prompt.box, axis, volume)[1]
        session.segment_slice(axis, at, box, clicks.get(at, ()), label, cancel)
        return
    if prompt.box is not None:
        session.segment_region(region_from_source(prompt.box, volume), label, (axis,), cancel, progress)
    else:
        begun = {at: points for at, points in clicks.items() if any(point.inside for point in points)}
        for at, points in begun.items():
            session.segment_slice(axis, at, None, points, label, cancel)
        session.propagate(axis, None, label, cancel=cancel, progress=progress)
        clicks = {at: points for at, points in clicks.items() if at not in begun}
    if not clicks:
        return
    present = session.lps_mask(label)
    for at, points in clicks.items():
        # a point outside takes away what is there; where nothing is, there is nothing to take
        if any(point.inside for point in points) or take_slice(present[None], axis, at).any():
            for point in sorted(points, key=lambda point: not point.inside):
                session.add_point(axis, at, point, label, cancel)


def _voxel(voxel: Voxel) -> Region:
    i, j, k = voxel
    return Region(voxel, (i + 1, j + 1, k + 1))


def _on_slice(box: Region, axis: str, volume: Volume) -> tuple[int, Box]:
    """The slice that a box one voxel thick is in, and the box as it is shown there.

    Raises:
        ValueError: it is thicker.
    """
    region = region_from_source(box, volume)
    if len(region.indices(axis)) != 1:
        raise ValueError(
            f"The box from {box.low} to {box.high} lies in {len(region.indices(axis))} {axis} slices: give a box one "
            "voxel thick for each slice."
        )
    return region.indices(axis).start, region.box(axis, volume.array.shape[1:])


def _click(voxel: Voxel, axis: str, volume: Volume, inside: bool) -> tuple[int, Point]:
    """The slice of a voxel, and its middle there."""
    at, (x0, y0, x1, y1) = _on_slice(_voxel(voxel), axis, volume)
    return at, Point((x0 + x1) / 2, (y0 + y1) / 2, inside)
