"""One volume being segmented: prompts go to the engine, masks come back into a segment, step by step.

Everything here is called on the main thread; results come into the scene when ``Background.update`` delivers them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .engines.base import Engine, Scan
from .geometry import grid_of
from .grid import Grid, VoxelBox, VoxelMask
from .jobs import Background, Job, State
from .plane import cut_plane, paint_plane
from .prompts import Prompt, PropagationPrompt, SlicePrompt
from .segmentation import Edit, Overwrite, SegmentationError, SegmentWriter

# As `monai_cobot.inferers.VolumeSession` bounds the masks that it keeps for undo.
_UNDO_BYTES = 500_000_000


class SessionError(RuntimeError):
    """A session that cannot do what it was asked now, with the reason and what to do."""


@dataclass(frozen=True, eq=False)
class SegmentedObject:
    """The object that is being segmented, after some prompt.

    Attributes:
        prompt: the last one.
        mask: all that was found for the object, in the grid of the volume.
        edit: what its mask changed in the segmentation.
        plane: the plane that the prompt is on; None for slices of the volume.
        slices: axis and index of each slice of the volume that was prompted -> its last prompt.
    """

    prompt: Prompt
    mask: VoxelMask
    edit: Edit
    plane: Grid | None = None
    slices: Mapping[tuple[int, int], SlicePrompt] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Step:
    """
    Attributes:
        before: the object at hand before it.
        after: and after it.
        made: the ``vtkSegment`` that was added for it; None where the segment was there.
    """

    before: SegmentedObject | None
    after: SegmentedObject
    made: Any = None


class Session:
    """Segments objects in one volume, into one segmentation.

    A prompt for the object at hand replaces what earlier ones found in the same slice; propagation replaces all but the
    slices that it starts from; a 3D box, and a box in an oblique view, replace all of it. A prompt that finds nothing
    changes nothing. Later prompts leave erased what the user erased from the object by hand; ``undo`` and ``redo`` put
    a mask back as it was found, with what was erased of it since. The oldest steps are forgotten where the masks of all
    would take more than 500 MB. ``accept`` ends the object, and the next prompt begins another. Where the volume or the
    segmentation is removed from the scene, the session closes.

    Args:
        volume_node: what is segmented.
        segmentation_node: where masks go.
        engine: what segments; may be exchanged.
        background: where the engine is called.

    Raises:
        GeometryError, SegmentationError: the volume or the segmentation cannot be used; says what to do.
    """

    def __init__(self, volume_node: Any, segmentation_node: Any, engine: Engine, background: Background) -> None:
        self.writer = SegmentWriter(segmentation_node, volume_node)
        self.engine = engine
        self.found = False
        """Whether the last prompt found something."""
        self._volume_node = volume_node
        self._background = background
        self._job: Job | None = None
        self._object: SegmentedObject | None = None
        self._undo: list[_Step] = []
        self._redo: list[_Step] = []
        self._scan: Scan | None = None
        grid_of(volume_node)
        scene = volume_node.GetScene()
        self._scene: Any = scene
        self._observers = [
            scene.AddObserver(event, self._on_scene_changed) for event in (scene.NodeRemovedEvent, scene.EndCloseEvent)
        ]

    # --- what there is

    @property
    def closed(self) -> bool:
        """Whether its volume or its segmentation is gone, or ``close`` was called."""
        return self._scene is None

    def shows(self, volume_node: Any, segmentation_node: Any) -> bool:
        """Whether it is still open, and about this volume and this segmentation."""
        return not self.closed and (self._volume_node, self.writer.node) == (volume_node, segmentation_node)

    @property
    def object(self) -> SegmentedObject | None:
        """The object at hand, as it is after the last prompt, undo or redo; None before its first prompt, and where its
        segment was removed."""
        return self._object if self._object is not None and self._has(self._object.edit.segment_id) else None

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to take back."""
        return any(map(self._can_be_undone, self._undo))

    @property
    def can_redo(self) -> bool:
        """Whether there is a step to do again."""
        return bool(self._redo) and self._can_be_redone(self._redo[-1])

    # --- what a user does

    def segment(
        self,
        prompt: Prompt,
        segment_id: str | None,
        adapter: str,
        preset: str | None = None,
        overwrite: Overwrite = Overwrite.ALL,
        plane: Grid | None = None,
    ) -> None:
        """Begin to segment what a prompt shows; ``update`` delivers it.

        Args:
            prompt: in voxels of the volume, or of ``plane``.
            segment_id: where the mask goes; None for a new segment, which is added when there is a mask.
            adapter: id of one of the engine's adapters.
            preset: intensity preset; None for the adapter's own.
            overwrite: what happens to other segments.
            plane: for a box in an oblique view, the grid from `plane.plane_grid`; None for slices of the volume.

        Raises:
            SessionError: something runs, or the session is closed.
            SegmentationError, GeometryError: masks cannot be written into the segmentation as it is now.
        """
        self._check_idle()
        self.writer.check(segment_id)
        scan = self.scan() if plane is None else self._plane_scan(plane)

        def deliver(mask: VoxelMask | None) -> None:
            if mask is not None and plane is not None:
                mask = paint_plane(mask, plane, scan_grid)
            self.found = mask is not None
            if mask is not None:
                self._put(prompt, mask, segment_id, overwrite, plane)

        scan_grid = grid_of(self._volume_node)
        engine = self.engine
        self._job = self._background.start(lambda job: engine.segment(scan, prompt, adapter, preset, job), deliver)

    def undo(self) -> bool:
        """Take the last step back; False where there is none. Steps in segments that were removed are passed over.

        Raises:
            SessionError: something runs, or the session is closed.
            SegmentationError, GeometryError: the segmentation cannot be written as it is now; says what to do.
        """
        self._check_idle()
        self._undo = [step for step in self._undo if self._can_be_undone(step)]
        if not self._undo:
            return False
        step = self._undo[-1]
        self.writer.check(step.after.edit.segment_id)
        with self.writer.as_one():
            self.writer.undo(step.after.edit)
            if step.before is not None:
                self.writer.redo(step.before.edit)
        if step.made is not None and self.writer.read(step.after.edit.segment_id) is None:
            self.writer.remove_segment(step.after.edit.segment_id)
        self._object = step.before
        self._redo.append(self._undo.pop())
        return True

    def redo(self) -> bool:
        """Do a step again that was taken back; False where there is none, or its segment was removed.

        Raises:
            SessionError, SegmentationError, GeometryError: as ``undo``.
        """
        self._check_idle()
        if not self.can_redo:
            return False
        step = self._redo[-1]
        if step.made is not None:
            self.writer.restore_segment(step.after.edit.segment_id, step.made)
        self.writer.check(step.after.edit.segment_id)
        with self.writer.as_one():
            if step.before is not None:
                self.writer.undo(step.before.edit)
            self.writer.redo(step.after.edit)
        self._object = step.after
        self._undo.append(self._redo.pop())
        return True

    def accept(self) -> None:
        """The object is done: the next prompt begins another one.

        Raises:
            SessionError: something runs, or the session is closed.
        """
        self._check_idle()
        self._object = None

    def close(self) -> None:
        """Stop what runs for it, and never touch the scene again."""
        if self._scene is None:
            return
        if self._job is not None:
            self._job.cancel()
        for observer in self._observers:
            self._scene.RemoveObserver(observer)
        self._scene = self._scan = None

    def labels(self) -> dict[str, VoxelMask]:
        """All segments that are not empty, as an engine keeps them: name -> mask in the grid of the volume.

        Raises:
            SegmentationError: nothing is segmented yet, or two segments have the same name.
        """
        segmentation = self.writer.node.GetSegmentation()
        found: dict[str, VoxelMask] = {}
        for segment_id in segmentation.GetSegmentIDs():
            mask, name = self.writer.read(segment_id), segmentation.GetSegment(segment_id).GetName()
            if mask is not None and name in found:
                raise SegmentationError(f'Two segments are called "{name}". Give each a name of its own.')
            if mask is not None:
                found[name] = mask
        if not found:
            raise SegmentationError("Nothing is segmented yet. Segment an object first.")
        return found

    # --- steps

    def _put(
        self, prompt: Prompt, mask: VoxelMask, segment_id: str | None, overwrite: Overwrite, plane: Grid | None
    ) -> None:
        """Put a mask into the object at hand, as one step."""
        before = self.object
        if before is not None and before.edit.segment_id != segment_id:
            before = None  # another segment was chosen: another object
        slices: dict[tuple[int, int], SlicePrompt] = {}
        whole: VoxelMask | None = mask
        if before is not None and plane is None and isinstance(prompt, SlicePrompt | PropagationPrompt):
            whole = self._joined(before, prompt, mask)
            slices.update(before.slices)
        if plane is None and isinstance(prompt, SlicePrompt):
            slices[prompt.axis, prompt.index] = prompt
        assert whole is not None
        made = None
        if segment_id is None:
            segment_id = self.writer.add_segment("Object")
            made = self.writer.node.GetSegmentation().GetSegment(segment_id)
        try:
            edit = self._rewritten(before, segment_id, whole, overwrite)
        except Exception:
            if made is not None:
                self.writer.remove_segment(segment_id)
            raise
        after = SegmentedObject(prompt, whole, edit, plane, slices)
        self._undo.append(_Step(before, after, made))
        self._redo.clear()
        self._object = after
        while len(self._undo) > 1 and _nbytes(self._undo) > _UNDO_BYTES:
            del self._undo[0]

    def _rewritten(
        self, before: SegmentedObject | None, segment_id: str, whole: VoxelMask, overwrite: Overwrite
    ) -> Edit:
        """What writing a mask instead of the one before changes; the one before is put back where that fails."""
        if before is None:
            return self.writer.write(segment_id, whole, overwrite)
        with self.writer.as_one():
            self.writer.undo(before.edit)
            try:
                return self.writer.write(segment_id, whole, overwrite)
            except Exception:
                self.writer.redo(before.edit)
                raise

    def _joined(
        self, before: SegmentedObject, prompt: SlicePrompt | PropagationPrompt, mask: VoxelMask
    ) -> VoxelMask | None:
        """The mask of an object with what a prompt found: in the slice of the prompt, or, of a propagation, in all but
        the slices that it starts from. What was erased by hand stays erased."""
        now = self.writer.read(before.edit.segment_id)
        common = None if now is None else now.box.intersection(before.mask.box)
        if now is None or common is None:
            return mask
        left = now.array[common.within(now.box)] & before.mask.array[common.within(before.mask.box)]
        kept: VoxelMask | None = VoxelMask(common, left)
        new: VoxelMask | None = mask
        axis, along = prompt.axis, range(common.low[prompt.axis], common.high[prompt.axis])
        if isinstance(prompt, SlicePrompt):
            kept = kept.without_slices(axis, [prompt.index])
        else:
            starts = {box.low[axis] for box in prompt.boxes}
            kept = kept.without_slices(axis, set(along) - starts)
            if kept is not None:
                new = mask.without_slices(axis, [index for index in starts if kept.in_slice(axis, index) is not None])
        return _united(kept, new)

    def _has(self, segment_id: str) -> bool:
        return self.writer.node.GetSegmentation().GetSegment(segment_id) is not None

    def _can_be_undone(self, step: _Step) -> bool:
        return self._has(step.after.edit.segment_id)

    def _can_be_redone(self, step: _Step) -> bool:
        return step.made is not None or self._has(step.after.edit.segment_id)

    # --- the scene

    def _check_idle(self) -> None:
        if self.closed:
            raise SessionError("The volume or the segmentation is no longer in the scene. Choose others above.")
        if self._background.state != State.IDLE:
            raise SessionError("The last request is still being worked on. Wait for it, or cancel it.")

    def _on_scene_changed(self, *_: object) -> None:
        if self._volume_node.GetScene() is None or self.writer.node.GetScene() is None:
            self.close()

    # --- images

    def scan(self) -> Scan:
        """The volume as an engine reads it, copied once for as long as it stays the same.

        Raises:
            SessionError: it has several values a voxel.
        """
        import slicer

        image, grid = self._volume_node.GetImageData(), grid_of(self._volume_node)
        key = f"{self._volume_node.GetID()} {image.GetMTime()} {_digest(grid)}"
        if self._scan is None or self._scan.key != key:
            array = slicer.util.arrayFromVolume(self._volume_node)
            if array.ndim != 3:
                raise SessionError(
                    f'"{self._volume_node.GetName()}" has {array.shape[-1]} values a voxel. Choose a volume with one, '
                    'or make one in the module "Vector to Scalar Volume".'
                )
            # copied, because the user may change or close the volume while the worker reads it
            self._scan = Scan(key, self._volume_node.GetName(), array.copy(), grid)
        return self._scan

    def _plane_scan(self, plane: Grid) -> Scan:
        volume = self.scan()
        image = cut_plane(self._volume_node, volume.grid, plane)
        return Scan(f"{volume.key} {_digest(plane)}", volume.name, image, plane, volume)


def _digest(grid: Grid) -> str:
    return hashlib.sha256(np.round(grid.ijk_to_ras, 6).tobytes()).hexdigest()[:16]


def _nbytes(steps: list[_Step]) -> int:
    """Memory of the masks of some steps, each counted once however many steps hold it."""
    items = (item for step in steps for item in (step.before, step.after) if item is not None)
    masks = (mask for item in items for mask in (item.mask, item.edit.added, *item.edit.taken.values()))
    return sum({id(mask.array): mask.array.nbytes for mask in masks if mask is not None}.values())


def _united(a: VoxelMask | None, b: VoxelMask | None) -> VoxelMask | None:
    if a is None or b is None:
        return b if a is None else a
    box: VoxelBox = a.box.union(b.box)
    array = np.zeros(box.shape, dtype=bool)
    for mask in (a, b):
        array[mask.box.within(box)] |= mask.array
    return VoxelMask(box, array)
