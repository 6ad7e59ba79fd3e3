"""One volume being segmented: prompts go to the engine, masks come back into a segment, step by step.

Everything here is called on the main thread; results come into the scene when ``Background.update`` delivers them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from .engines.base import Engine, Scan
from .geometry import grid_of
from .grid import Grid, VoxelBox, VoxelMask
from .jobs import Background, Job, State
from .plane import cut_plane, paint_plane
from .prompts import Prompt, SlicePrompt
from .segmentation import Edit, Overwrite, SegmentationError, SegmentWriter


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
    """

    prompt: Prompt
    mask: VoxelMask | None
    edit: Edit
    plane: Grid | None = None


@dataclass(frozen=True, eq=False)
class _Step:
    before: SegmentedObject | None
    after: SegmentedObject | None


class Session:
    """Segments objects in one volume, into one segmentation.

    A prompt for the object at hand replaces what earlier ones found in the same slice; a 3D prompt replaces all of it.
    What the user erased from the object by hand stays erased. ``accept`` ends the object, and the next prompt begins
    another. Where the volume or the segmentation is removed from the scene, the session closes.

    Args:
        volume_node: what is segmented.
        segmentation_node: where masks go.
        engine: what segments.
        background: where the engine is called.

    Raises:
        GeometryError, SegmentationError: the volume or the segmentation cannot be used; says what to do.
    """

    def __init__(self, volume_node: Any, segmentation_node: Any, engine: Engine, background: Background) -> None:
        self.writer = SegmentWriter(segmentation_node, volume_node)
        self.engine = engine
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
        """The object at hand, as it is after the last prompt, undo or redo; None before its first prompt."""
        return self._object

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to take back."""
        return bool(self._undo)

    @property
    def can_redo(self) -> bool:
        """Whether there is a step to do again."""
        return bool(self._redo)

    # --- what a user does

    def segment(
        self,
        prompt: Prompt,
        segment_id: str,
        adapter: str,
        preset: str | None = None,
        overwrite: Overwrite = Overwrite.ALL,
        plane: Grid | None = None,
    ) -> None:
        """Begin to segment what a prompt shows; ``update`` delivers it.

        Args:
            prompt: in voxels of the volume, or of ``plane``.
            segment_id: where the mask goes.
            adapter: id of one of the engine's adapters.
            preset: intensity preset; None for the adapter's own.
            overwrite: what happens to other segments.
            plane: for a box in an oblique view, the grid from `plane.plane_grid`; None for slices of the volume.

        Raises:
            SessionError: something runs, or the session is closed.
        """
        self._check_idle()
        scan = self.scan() if plane is None else self._plane_scan(plane)

        def deliver(mask: VoxelMask | None) -> None:
            if mask is not None and plane is not None:
                mask = paint_plane(mask, plane, scan_grid)
            self._put(prompt, mask, segment_id, overwrite, plane)

        scan_grid = grid_of(self._volume_node)
        self._job = self._background.start(lambda job: self.engine.segment(scan, prompt, adapter, preset, job), deliver)

    def undo(self) -> bool:
        """Take the last step back; False where there is none.

        Raises:
            SessionError: something runs, or the session is closed.
            SegmentationError: the segment was removed.
        """
        return self._walk(self._undo, self._redo, backwards=True)

    def redo(self) -> bool:
        """Do a step again that was taken back; False where there is none.

        Raises:
            SessionError, SegmentationError: as ``undo``.
        """
        return self._walk(self._redo, self._undo, backwards=False)

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
            SegmentationError: nothing is segmented yet.
        """
        segmentation = self.writer.node.GetSegmentation()
        masks = {name: self.writer.read(name) for name in segmentation.GetSegmentIDs()}
        found = {segmentation.GetSegment(name).GetName(): mask for name, mask in masks.items() if mask is not None}
        if not found:
            raise SegmentationError("Nothing is segmented yet. Segment an object first.")
        return found

    # --- steps

    def _put(
        self, prompt: Prompt, mask: VoxelMask | None, segment_id: str, overwrite: Overwrite, plane: Grid | None
    ) -> None:
        """Put a mask into the object at hand, as one step."""
        before = self._object
        if before is not None and before.edit.segment_id != segment_id:
            before = None  # another segment was chosen: another object
        kept = None if before is None else self._kept(before, prompt, plane)
        whole = _united(kept, mask)
        if before is not None:
            self.writer.undo(before.edit)
        try:
            edit = Edit(segment_id, None) if whole is None else self.writer.write(segment_id, whole, overwrite)
        except SegmentationError:
            if before is not None:
                self.writer.redo(before.edit)
            raise
        after = SegmentedObject(prompt, whole, edit, plane)
        self._undo.append(_Step(before, after))
        self._redo.clear()
        self._object = after

    def _kept(self, item: SegmentedObject, prompt: Prompt, plane: Grid | None) -> VoxelMask | None:
        """What stays of an object when a prompt comes: other slices, less what was erased by hand."""
        if item.mask is None or plane is not None or not isinstance(prompt, SlicePrompt):
            return None
        now = self.writer.read(item.edit.segment_id)
        if now is None:
            return None
        kept = np.zeros(item.mask.box.shape, dtype=bool)
        common = now.box.intersection(item.mask.box)
        if common is None:
            return None
        kept[common.within(item.mask.box)] = (
            now.array[common.within(now.box)] & item.mask.array[common.within(item.mask.box)]
        )
        axis = prompt.axis
        if item.mask.box.low[axis] <= prompt.index < item.mask.box.high[axis]:
            kept[(slice(None),) * (2 - axis) + (prompt.index - item.mask.box.low[axis],)] = False
        return VoxelMask(item.mask.box, kept).cropped()

    def _walk(self, source: list[_Step], target: list[_Step], backwards: bool) -> bool:
        self._check_idle()
        if not source:
            return False
        step = source[-1]
        leaving, entering = (step.after, step.before) if backwards else (step.before, step.after)
        if leaving is not None:
            self.writer.undo(leaving.edit)
        if entering is not None:
            self.writer.redo(entering.edit)
        self._object = entering
        target.append(source.pop())
        return True

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
        return Scan(f"{volume.key} {_digest(plane)}", volume.name, image, plane)


def _digest(grid: Grid) -> str:
    return hashlib.sha256(np.round(grid.ijk_to_ras, 6).tobytes()).hexdigest()[:16]


def _united(a: VoxelMask | None, b: VoxelMask | None) -> VoxelMask | None:
    if a is None or b is None:
        return b if a is None else a
    box: VoxelBox = a.box.union(b.box)
    array = np.zeros(box.shape, dtype=bool)
    for mask in (a, b):
        array[mask.box.within(box)] |= mask.array
    return VoxelMask(box, array)
