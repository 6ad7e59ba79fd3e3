"""Segmenting one volume together with a user: prompts in, masks on the volume's own grid out."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from os import PathLike
from pathlib import Path
from types import MappingProxyType

import numpy as np

from monai_cobot.data import Volume, mask_on_source_grid, read_volume, write_mask
from monai_cobot.inferers.adapters import AdaptedSam
from monai_cobot.inferers.cancel import CancelToken, Progress
from monai_cobot.inferers.embedding_cache import EmbeddingCache
from monai_cobot.inferers.grid import SLICE_NORMALS, Box, Region, region_to_source
from monai_cobot.inferers.objects import MaskCrop, SegmentedObject
from monai_cobot.inferers.postprocessing import components_in_slices, fill_holes, largest_component
from monai_cobot.inferers.prediction import SlicePrediction, SlicePredictor
from monai_cobot.inferers.prompts import Point, SlicePrompts
from monai_cobot.inferers.propagation import EndRules, propagate
from monai_cobot.inferers.regions import fuse_axes, mask_of_slices, segment_region
from monai_cobot.inferers.slice_encoder import SliceEncoder, guess_preset
from monai_cobot.transforms import SLICE_AXES, find_preset, place_slice

__all__ = ["VolumeSession"]

_State = Mapping[int, SegmentedObject]

_UNDO_BYTES = 500_000_000
_NEIGHBOURS = (1, -1, 2, -2, 3, -3)


class VolumeSession:
    """One volume, the objects in it, and the model that segments them.

    Slices, boxes and points are those of the volume's LPS frame, as `monai_cobot.transforms.take_slice` shows them;
    :func:`~monai_cobot.inferers.region_from_source` brings boxes of the file's own grid there. What comes out
    (:meth:`mask`, :meth:`crop`, :meth:`label_map`) is on the file's own grid.

    Work may be called from any thread, one at a time (others wait, and may be cancelled meanwhile); reading, removing
    an object and cancelling, from any thread at any time. A call that fails or is cancelled leaves the objects as they
    were. Every change is one step of undo.

    Args:
        volume: the volume, or its file.
        model: what segments; see :class:`~monai_cobot.inferers.AdapterShelf`.
        preset: intensity preset of the volume, such as ``"ct_abdomen"`` or ``"window:-160,240"``; None for the model's
            or, where it has none, one that fits (CT, MR or photograph).
        cache: where image embeddings are kept; None for a new one in memory.
        look_ahead: whether neighbouring slices are encoded in the background after a slice was prompted.
        keep_undo: whether changes can be taken back; programs that never do save the memory of what was before.

    Raises:
        ValueError, OSError: the volume cannot be read, or for an unknown preset.
    """

    def __init__(
        self,
        volume: Volume | str | PathLike[str],
        model: AdaptedSam,
        preset: str | None = None,
        cache: EmbeddingCache | None = None,
        look_ahead: bool = True,
        keep_undo: bool = True,
    ) -> None:
        self.volume = volume if isinstance(volume, Volume) else read_volume(Path(volume))
        if preset is not None:
            find_preset(preset)
        self._chosen_preset = preset
        self._model = model
        self._encoder = SliceEncoder(self.volume, EmbeddingCache() if cache is None else cache)
        self._look_ahead = look_ahead
        self._keep_undo = keep_undo
        self._state: _State = MappingProxyType({})
        self._undo: list[_State] = []
        self._redo: list[_State] = []
        self._working = threading.RLock()
        self._changing = threading.Lock()

    # --- what there is -------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int, int]:
        """(I, J, K) of the volume in the LPS frame."""
        i, j, k = self.volume.array.shape[1:]
        return i, j, k

    @property
    def model(self) -> AdaptedSam:
        """What segments now."""
        return self._model

    @property
    def preset(self) -> str:
        """The intensity preset of the slices now."""
        return self._chosen_preset or self._model.preset or self._guessed_preset

    @cached_property
    def _guessed_preset(self) -> str:
        return guess_preset(self.volume)

    @property
    def objects(self) -> _State:
        """Label -> object, in the order in which they were begun."""
        return self._state

    def mask(self, label: int) -> np.ndarray:
        """The mask of an object on the volume's own grid: (I, J, K) bool as the file orders its axes.

        Raises:
            KeyError: there is no such object.
        """
        result = np.zeros(self.volume.source_shape, dtype=bool)
        found = self.crop(label)
        if found is not None:
            result[found[0].slices] = found[1]
        return result

    def lps_mask(self, label: int) -> np.ndarray:
        """The mask of an object as (I, J, K) bool in the LPS frame, in which slices and prompts are counted.

        Raises:
            KeyError: there is no such object.
        """
        found = self._object(label).mask
        whole = Region((0, 0, 0), self.shape)
        return np.zeros(self.shape, dtype=bool) if found is None else found.read(whole)

    def crop(self, label: int) -> tuple[Region, np.ndarray] | None:
        """The mask of an object in the part of the volume's own grid where it has voxels, for programs that write only
        what there is.

        Returns:
            Where, and (I, J, K) bool of that shape; None where the mask is empty.

        Raises:
            KeyError: there is no such object.
        """
        found = self._object(label).mask
        if found is None:
            return None
        return region_to_source(found.region, self.volume), mask_on_source_grid(found.array, self.volume)

    def label_map(self) -> np.ndarray:
        """All objects on the volume's own grid: (I, J, K) uint8, or int16 for labels above 255, as the file orders its
        axes. Where objects overlap, the one that was begun first stays."""
        return mask_on_source_grid(self._label_map(), self.volume)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the label map on the volume's own grid, as `monai_cobot.data.write_mask` does.

        Raises:
            ValueError, OSError: the format cannot hold it, or it cannot be written.
        """
        write_mask(self._label_map(), self.volume, Path(path))

    # --- what a user does ----------------------------------------------------------------------------------------

    def use(self, model: AdaptedSam) -> None:
        """Segment with another model from now on; objects, and embeddings of all models, are kept."""
        with self._working:
            self._encoder.prefetch(model, self.preset, "axial", ())
            self._model = model

    def segment_slice(
        self,
        axis: str,
        index: int,
        box: Box | None = None,
        points: Sequence[Point] = (),
        label: int = 1,
        cancel: CancelToken | None = None,
    ) -> SlicePrediction:
        """Segment an object in one slice from a box, points, or both; they replace what was drawn on the slice before.

        Args:
            axis: ``"axial"``, ``"coronal"`` or ``"sagittal"``.
            index: voxel index along that axis, 0 at the patient's inferior, anterior or right end.
            box: x0, y0, x1, y1 in pixels of the slice, half-open.
            points: clicks inside and outside the object.
            label: which object; a new one is begun.
            cancel: stops it.

        Returns:
            What the network made of the slice.

        Raises:
            ValueError: there is no such slice, or the prompts do not fit it.
            Cancelled: if so asked.
        """
        with self._work(cancel):
            prompts = SlicePrompts(box, tuple(points))
            prediction = self._predictor(cancel)(axis, index, prompts)
            region = self._slice_region(axis, index)
            mask = np.zeros(region.shape, dtype=bool)
            place_slice(mask[None], prediction.mask[None], axis, 0)
            self._change(self._begun(label).with_mask(region, mask).with_prompts({(axis, index): prompts}))
            if self._look_ahead:
                self.look_ahead(axis, [index + step for step in _NEIGHBOURS])
            return prediction

    def add_point(
        self, axis: str, index: int, point: Point, label: int = 1, cancel: CancelToken | None = None
    ) -> SlicePrediction:
        """Correct an object in one slice by one more point.

        It joins what the mask there came from; where the mask came along another axis, its box in this slice.

        Args:
            axis: as in :meth:`segment_slice`.
            index: as in :meth:`segment_slice`.
            point: the click.
            label: which object.
            cancel: stops it.

        Raises:
            ValueError: there is no such slice, the point is outside it, or it is the first and lies outside the object.
            Cancelled: if so asked.
        """
        with self._work(cancel):
            begun = self._begun(label)
            before = begun.prompts.get((axis, index)) or SlicePrompts(self._box_in_slice(begun, axis, index))
            return self.segment_slice(axis, index, before.box, (*before.points, point), label, cancel)

    def segment_region(
        self,
        region: Region,
        label: int = 1,
        axes: Sequence[str] | None = None,
        cancel: CancelToken | None = None,
        progress: Progress | None = None,
        keep_largest: bool = False,
        fill: bool = False,
    ) -> None:
        """Segment what a 3D box holds, in every slice within it; inside the box, it replaces the object's mask.

        Args:
            region: the box in the LPS frame; what is outside the volume is cut off.
            label: which object; a new one is begun.
            axes: slice axes, whose probabilities are averaged; None for the one that the model was trained on.
            cancel: stops it.
            progress: is told the slices done and to do.
            keep_largest: keep the largest connected part alone.
            fill: fill holes in slices.

        Raises:
            ValueError: the box is outside the volume, or for an unknown axis.
            Cancelled: if so asked.
        """
        axes = (self._model.axis,) if axes is None else tuple(axes)
        if not axes or set(axes) - set(SLICE_AXES):
            raise ValueError(f"Slice axes are {', '.join(SLICE_AXES)}, at least one of them; got {axes}.")
        with self._work(cancel):
            region = region.clipped(self.shape)
            mask = segment_region(self._predictor(cancel), region, axes, self.shape, progress)
            mask = _tidied(mask, axes[0], fill, keep_largest)
            drawn = {
                (axis, index): SlicePrompts(region.box(axis, self.shape), origin="region")
                for axis in axes
                for index in region.indices(axis)
            }
            self._change(self._begun(label).with_mask(region, mask).with_prompts(drawn))

    def propagate(
        self,
        axis: str,
        boxes: Mapping[int, Box] | None = None,
        label: int = 1,
        limits: range | None = None,
        rules: EndRules | None = None,
        fuse: bool = False,
        cancel: CancelToken | None = None,
        progress: Progress | None = None,
        keep_connected: bool = True,
        fill: bool = True,
    ) -> range:
        """Segment an object in 3D from boxes on one or more slices of an axis; it replaces the object's mask there.

        Between boxes, boxes are interpolated; beyond them, each comes from the mask before, until the object ends. What
        an earlier propagation along this axis gave is replaced as well, also in slices that show the object no more.

        Args:
            axis: slice axis.
            boxes: slice index -> box; None for what was drawn on slices of this axis, boxes and points.
            label: which object; a new one is begun.
            limits: slices that may be changed; None for all. What was drawn on others still says where the object is,
                and it is followed from there.
            rules: where the object ends; None for the usual ones.
            fuse: segment the slices of the two other axes too, and average the probabilities.
            cancel: stops it.
            progress: is told the slices done and, at most, to do.
            keep_connected: keep all parts that are connected, in 3D, to the mask of a slice with a box or points, and
                drop the others. For a slice outside the limits, the limit beside it stands; where none of
                these slices shows the object, the largest part is kept.
            fill: fill holes in slices.

        Returns:
            From the first to the last slice that shows the object.

        Raises:
            ValueError: there is no box, one does not fit, or nothing is found in the slices that may be changed.
            Cancelled: if so asked.
        """
        if axis not in SLICE_AXES:
            raise ValueError(f"Slice axes are {', '.join(SLICE_AXES)}; got {axis!r}.")
        with self._work(cancel):
            begun = self._begun(label)
            if boxes is None:
                prompts = {
                    index: drawn
                    for (of, index), drawn in begun.prompts.items()
                    if of == axis and drawn.origin == "drawn"
                }
            else:
                prompts = {index: SlicePrompts(box) for index, box in boxes.items()}
            count = self.shape[SLICE_NORMALS[axis]]
            limits = range(count) if limits is None else range(max(0, limits.start), min(count, limits.stop))
            predict, rules = self._predictor(cancel), rules or EndRules()
            across = sum(self.shape[SLICE_NORMALS[other]] for other in SLICE_AXES if other != axis) if fuse else 0
            total = len(limits) + across
            slices = propagate(predict, axis, prompts, limits, rules, _part_of(total, 0, len(limits), progress))
            if fuse and slices:
                fusing = _part_of(total, len(limits), across, progress)
                found = fuse_axes(predict, slices, axis, self.shape, limits, rules.margin, fusing)
            else:
                found = mask_of_slices(slices, axis, self.shape)
            if found is None:
                raise ValueError(
                    "The model finds nothing in these boxes, or nothing in the slices that may be changed; draw them "
                    "closer around the object, on slices that may be changed or near those."
                )
            region, mask = found
            changed = begun.without_propagated(axis, limits)
            normal = SLICE_NORMALS[axis]
            drawn_on = {min(max(index, limits.start), limits.stop - 1) - region.low[normal] for index in prompts}
            tidied = _tidied(mask, axis, fill, connected_to=drawn_on if keep_connected else None)
            changed = changed.with_mask(region, tidied)
            shown, came_from = [], {index: drawn for index, drawn in prompts.items() if index in limits}
            for index in region.indices(axis):
                box = self._box_in_slice(changed, axis, index)
                if box is not None:
                    shown.append(index)
                    if index in slices:  # where axes were fused, there may be one slice more at each end
                        box = slices[index].box
                    came_from.setdefault(index, SlicePrompts(box, origin="propagated"))
            self._change(changed.with_prompts({(axis, index): drawn for index, drawn in came_from.items()}))
            return range(shown[0], shown[-1] + 1)

    def remove(self, label: int) -> None:
        """Take an object away, without waiting for work on others.

        Raises:
            KeyError: there is no such object.
        """
        with self._changing:
            self._object(label)
            self._commit({key: value for key, value in self._state.items() if key != label})

    def undo(self) -> bool:
        """Take the last change back; False where there is none."""
        return self._step(self._undo, self._redo)

    def redo(self) -> bool:
        """Make the last change that was taken back again; False where there is none."""
        return self._step(self._redo, self._undo)

    def look_ahead(self, axis: str, indices: Sequence[int]) -> None:
        """Encode slices in the background, in this order, such as those that a user will turn to next."""
        count = self.shape[SLICE_NORMALS[axis]]
        inside = [index for index in indices if 0 <= index < count]
        self._encoder.prefetch(self._model, self.preset, axis, inside)

    def close(self) -> None:
        """Stop the background thread. The objects can still be read."""
        self._encoder.close()

    def __enter__(self) -> VolumeSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the state ------------------------------------------------------------------------------------------------

    @contextmanager
    def _work(self, cancel: CancelToken | None) -> Iterator[None]:
        """The one piece of work at a time.

        Raises:
            Cancelled: if so asked while others work.
        """
        while not self._working.acquire(timeout=0.05):
            if cancel is not None:
                cancel.check()
        try:
            yield
        finally:
            self._working.release()

    def _predictor(self, cancel: CancelToken | None) -> SlicePredictor:
        return SlicePredictor(self._model, self.preset, self._encoder, cancel or CancelToken())

    def _object(self, label: int) -> SegmentedObject:
        if label not in self._state:
            known = ", ".join(map(str, self._state)) or "none"
            raise KeyError(f"There is no object {label}; there are {known}.")
        return self._state[label]

    def _begun(self, label: int) -> SegmentedObject:
        if not 1 <= label <= np.iinfo(np.int16).max:
            raise ValueError(f"Labels are whole numbers from 1 to {np.iinfo(np.int16).max}; got {label}.")
        return self._state.get(label) or SegmentedObject(label)

    def _change(self, changed: SegmentedObject) -> None:
        with self._changing:
            self._commit({**self._state, changed.label: changed})

    def _commit(self, state: dict[int, SegmentedObject]) -> None:
        if self._keep_undo:
            self._undo.append(self._state)
            self._redo.clear()
        self._state = MappingProxyType(state)
        while len(self._undo) > 1 and _nbytes(self._undo) > _UNDO_BYTES:
            self._undo.pop(0)

    def _step(self, source: list[_State], target: list[_State]) -> bool:
        with self._working, self._changing:
            if not source:
                return False
            target.append(self._state)
            self._state = source.pop()
            return True

    def _label_map(self) -> np.ndarray:
        """(I, J, K) in the LPS frame."""
        largest = max(self._state, default=0)
        result = np.zeros(self.shape, dtype=np.uint8 if largest <= 255 else np.int16)
        for label, item in self._state.items():
            if item.mask is not None:
                view = result[item.mask.region.slices]
                view[item.mask.array & (view == 0)] = label
        return result

    def _slice_region(self, axis: str, index: int) -> Region:
        normal = SLICE_NORMALS[axis]
        low, high = [0, 0, 0], list(self.shape)
        low[normal], high[normal] = index, index + 1
        return Region((low[0], low[1], low[2]), (high[0], high[1], high[2]))

    def _box_in_slice(self, item: SegmentedObject, axis: str, index: int) -> Box | None:
        """The box of an object's mask in a slice; None where it is not there."""
        if item.mask is None:
            return None
        found = MaskCrop.of(region := self._slice_region(axis, index), item.mask.read(region))
        return None if found is None else found.region.box(axis, self.shape)


def _tidied(
    mask: np.ndarray, axis: str, fill: bool, keep_largest: bool = False, connected_to: Collection[int] | None = None
) -> np.ndarray:
    """A mask without what was not meant; ``connected_to`` are slices of the mask along the axis."""
    around = Region.around(mask)
    if around is None:
        return mask
    inside = mask[around.slices]  # of whole slices, an object is a small part
    if keep_largest:
        inside = largest_component(inside)
    if connected_to is not None:
        first = around.low[SLICE_NORMALS[axis]]
        inside = components_in_slices(inside, SLICE_NORMALS[axis], [index - first for index in connected_to])
    if fill:
        inside = fill_holes(inside, SLICE_NORMALS[axis])
    tidied = np.zeros_like(mask)
    tidied[around.slices] = inside
    return tidied


def _part_of(total: int, before: int, most: int, progress: Progress | None) -> Progress | None:
    """The progress of a part of some work: what comes before it, and its most steps, of which it may need fewer."""
    return None if progress is None else lambda done, of: progress(before + most - of + done, total)


def _nbytes(states: Sequence[_State]) -> int:
    """Memory of masks, each counted once however many states hold it."""
    return sum({id(item): item.nbytes for state in states for item in state.values()}.values())
