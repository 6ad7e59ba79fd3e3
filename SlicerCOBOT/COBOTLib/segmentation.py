"""Masks into the segments of a segmentation node, as the Segment Editor would write them.

A labelmap is changed in place and only where the mask is: what it costs depends on the mask, not on the volume.
Segments that do not overlap share one labelmap in Slicer; a segment gets its own when it first overlaps another.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np

from .geometry import array_from_matrix, grid_of, matrix_from_array, node_to_world
from .grid import Grid, VoxelBox, VoxelMask, resampled

_LABELMAP = "Binary labelmap"
_SURFACE = "Closed surface"
# More room than asked for, so that an object that grows slice by slice does not move its labelmap each time.
_ROOM = 16


class SegmentationError(ValueError):
    """A segmentation that cannot be written, with the reason and what to do."""


class Overwrite(IntEnum):
    """What happens to other segments where a mask is written; the numbers are ``vtkMRMLSegmentEditorNode``'s."""

    ALL = 0
    VISIBLE = 1
    NONE = 2


@dataclass(frozen=True, eq=False)
class Edit:
    """What one write changed, for ``SegmentWriter.undo`` and ``redo``.

    Attributes:
        segment_id: where voxels were added.
        added: these voxels; None where the mask was there already.
        taken: from each other segment (its id), the voxels that it lost.
    """

    segment_id: str
    added: VoxelMask | None
    taken: dict[str, VoxelMask] = field(default_factory=dict)


class SegmentWriter:
    """Writes masks of one volume into one segmentation. To be used on the main thread, as all of MRML.

    Masks are in the grid of the volume. A segmentation with a grid of its own gets them resampled, each voxel as the
    mask is at its centre.

    Args:
        segmentation_node: a ``vtkMRMLSegmentationNode``; an empty one takes the volume's grid.
        volume_node: the volume that is segmented.

    Raises:
        SegmentationError: the segmentation does not consist of binary labelmaps.
        GeometryError: volume or segmentation are under a transform that is not linear.
    """

    def __init__(self, segmentation_node: Any, volume_node: Any) -> None:
        self.node = segmentation_node
        self._segmentation = segmentation_node.GetSegmentation()
        source = self._segmentation.GetSourceRepresentationName()
        if self._segmentation.GetNumberOfSegments() and source != _LABELMAP:
            raise SegmentationError(
                f'"{segmentation_node.GetName()}" consists of the representation "{source}". Make "{_LABELMAP}" its '
                'source representation in the module "Segmentations", or choose another segmentation.'
            )
        if not self._segmentation.GetConversionParameter("Reference image geometry"):
            segmentation_node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
        if segmentation_node.GetDisplayNode() is None:
            segmentation_node.CreateDefaultDisplayNodes()
        self._volume_node = volume_node
        self._changed: set[str] | None = None  # segments that `as_one` speaks of at its end

    def add_segment(self, name: str) -> str:
        """Add an empty segment.

        Returns:
            its id.
        """
        return self._segmentation.AddEmptySegment("", name)

    def restore_segment(self, segment_id: str, segment: Any) -> None:
        """Add a segment again that was removed while it was empty, under its id, with its name and colour."""
        if self._segmentation.GetSegment(segment_id) is None:
            self._segmentation.AddEmptySegment(segment_id, segment.GetName(), segment.GetColor())

    def remove_segment(self, segment_id: str) -> None:
        """Remove a segment."""
        self._segmentation.RemoveSegment(segment_id)

    def check(self, segment_id: str | None) -> None:
        """Whether a mask could be written now, before time is spent on it.

        Args:
            segment_id: where it would go; None for a new segment.

        Raises:
            SegmentationError: there is no such segment, or a segment has another grid than the others.
            GeometryError: the segmentation was put under a transform that is not linear.
        """
        if segment_id is not None:
            self._check(segment_id)
        self._grid()

    @contextlib.contextmanager
    def as_one(self) -> Iterator[None]:
        """Makes several changes one event for who shows the segmentation. Where it has surfaces, those of the segments
        that changed are made anew at the end."""
        if self._changed is not None:  # within another
            yield
            return
        self._changed = set()
        surfaces = self._surfaces()
        was_modifying = self.node.StartModify()
        try:
            yield
        finally:
            changed, self._changed = self._changed, None
            if surfaces:
                self._make_surfaces({name: surface for name, surface in surfaces.items() if name not in changed})
            for name in changed:
                segment = self._segmentation.GetSegment(name)
                if segment is not None:
                    segment.Modified()  # slice views draw a changed labelmap only when its segment says so
            self.node.EndModify(was_modifying)

    def write(self, segment_id: str, mask: VoxelMask, overwrite: Overwrite = Overwrite.ALL) -> Edit:
        """Add a mask to a segment; the segment keeps what it had.

        Args:
            segment_id: of a segment of this segmentation.
            mask: in the grid of the volume; what is outside the volume is left out.
            overwrite: what happens to other segments.

        Returns:
            what was changed.

        Raises:
            SegmentationError: there is no such segment, or a segment has another grid than the others.
        """
        self._check(segment_id)
        moved = self._to_own_grid(mask)
        if moved is None:
            return Edit(segment_id, None)
        added = VoxelMask(moved.box, moved.array & ~self._read(segment_id, moved.box)).cropped()
        taken = {}
        values: dict[Any, set[int]] = {}  # that each labelmap has in the mask: few of its segments are there
        for other in self._overwritten(segment_id, overwrite):
            layer = self._layer(other)
            if layer not in values:
                values[layer] = _values_in(layer, moved)
            if self._value(other) not in values[layer]:
                continue
            lost = VoxelMask(moved.box, moved.array & self._read(other, moved.box)).cropped()
            if lost is not None:
                taken[other] = lost
        edit = Edit(segment_id, added, taken)
        self.redo(edit)
        return edit

    def undo(self, edit: Edit) -> None:
        """Put back what an edit changed, voxel by voxel. What became of other voxels since stays.

        Raises:
            SegmentationError: the segment was removed. One that only lost voxels may be gone.
        """
        self._check(edit.segment_id)
        with self._modifying(edit):
            if edit.added is not None:
                self._erase(edit.segment_id, edit.added)
            for other, lost in edit.taken.items():
                if self._segmentation.GetSegment(other) is not None:
                    self._paint(other, lost)

    def redo(self, edit: Edit) -> None:
        """Do an edit again after ``undo``.

        Raises:
            SegmentationError: as ``undo``.
        """
        self._check(edit.segment_id)
        with self._modifying(edit):
            for other, lost in edit.taken.items():
                if self._segmentation.GetSegment(other) is not None:
                    self._erase(other, lost)
            if edit.added is not None:
                self._paint(edit.segment_id, edit.added)

    def read(self, segment_id: str) -> VoxelMask | None:
        """A segment as a mask in the grid of the volume, cropped; None for an empty one.

        Raises:
            SegmentationError: there is no such segment, or it has another grid than the others.
        """
        self._check(segment_id)
        box = self._extent(segment_id)
        if box is None:
            return None
        return resampled(VoxelMask(box, self._read(segment_id, box)), self._grid(), grid_of(self._volume_node))

    # --- grids

    def _matrix(self) -> np.ndarray:
        """(4, 4), from the voxel indices of the labelmaps to the coordinates of the segmentation."""
        for layer in self._layers():
            return _matrix_of(layer)
        import slicer

        geometry = self._segmentation.GetConversionParameter("Reference image geometry")
        reference = slicer.vtkOrientedImageData()
        slicer.vtkSegmentationConverter.DeserializeImageGeometry(geometry, reference, False)
        return _matrix_of(reference)

    def _grid(self) -> Grid:
        """The grid of the labelmaps in the world: its voxel (0, 0, 0) may be anywhere, its end is not known."""
        return Grid(node_to_world(self.node) @ self._matrix(), grid_of(self._volume_node).dimensions)

    def _to_own_grid(self, mask: VoxelMask) -> VoxelMask | None:
        """A mask of the volume in the grid of the labelmaps, cropped; None for an empty one."""
        volume = grid_of(self._volume_node)
        inside = mask.clipped(volume.box)
        cropped = None if inside is None else inside.cropped()
        if cropped is None:
            return None
        own = self._grid()
        # a grid that is large enough for the mask, wherever the labelmaps begin and end
        corners = own.to_ijk(volume.to_ras(cropped.box.corners))
        start = np.floor(corners.min(axis=0)).astype(int) - 1
        dimensions = tuple((np.ceil(corners.max(axis=0)).astype(int) + 2 - start).tolist())
        shift = np.eye(4)
        shift[:3, 3] = start
        moved = resampled(cropped, volume, Grid(own.ijk_to_ras @ shift, dimensions))
        return None if moved is None else moved.shifted(tuple(start.tolist()))

    # --- segments

    def _check(self, segment_id: str) -> None:
        if self._segmentation.GetSegment(segment_id) is None:
            raise SegmentationError(
                f'"{self.node.GetName()}" has no segment "{segment_id}" any more. Choose or add a segment.'
            )
        matrix = self._matrix()
        for layer in self._layers():
            if not np.allclose(_matrix_of(layer), matrix, atol=1e-4):
                raise SegmentationError(
                    f'The segments of "{self.node.GetName()}" have several grids. Choose the option "Collapse labelmap '
                    'layers" in the module "Segmentations", or choose another segmentation.'
                )

    def _overwritten(self, segment_id: str, overwrite: Overwrite) -> list[str]:
        if overwrite == Overwrite.NONE:
            return []
        display = self.node.GetDisplayNode()
        return [
            other
            for other in self._segmentation.GetSegmentIDs()
            if other != segment_id and (overwrite == Overwrite.ALL or display.GetSegmentVisibility(other))
        ]

    def _layers(self) -> list[Any]:
        """The labelmaps that are not empty."""
        layers = (
            self._segmentation.GetLayerDataObject(index, _LABELMAP)
            for index in range(self._segmentation.GetNumberOfLayers())
        )
        return [layer for layer in layers if not layer.IsEmpty()]

    def _layer(self, segment_id: str) -> Any:
        """The ``vtkOrientedImageData`` that the segment is in, maybe with others."""
        return self._segmentation.GetSegment(segment_id).GetRepresentation(_LABELMAP)

    def _sharing(self, segment_id: str) -> list[str]:
        """The other segments in the same labelmap."""
        layer = self._layer(segment_id)
        return [
            other for other in self._segmentation.GetSegmentIDs() if other != segment_id and self._layer(other) is layer
        ]

    def _value(self, segment_id: str) -> int:
        return self._segmentation.GetSegment(segment_id).GetLabelValue()

    def _extent(self, segment_id: str) -> VoxelBox | None:
        layer = self._layer(segment_id)
        return None if layer.IsEmpty() else VoxelBox.from_extent(layer.GetExtent())

    def _read(self, segment_id: str, box: VoxelBox) -> np.ndarray:
        """(K, J, I) bool of a box."""
        result = np.zeros(box.shape, dtype=bool)
        extent = self._extent(segment_id)
        common = None if extent is None else extent.intersection(box)
        if common is not None:
            voxels = _voxels(self._layer(segment_id))[common.within(extent)]
            result[common.within(box)] = voxels == self._value(segment_id)
        return result

    def _erase(self, segment_id: str, mask: VoxelMask) -> None:
        extent = self._extent(segment_id)
        common = None if extent is None else extent.intersection(mask.box)
        if common is None:
            return
        voxels = _voxels(self._layer(segment_id))[common.within(extent)]
        voxels[mask.array[common.within(mask.box)] & (voxels == self._value(segment_id))] = 0
        self._layer(segment_id).Modified()

    def _paint(self, segment_id: str, mask: VoxelMask) -> None:
        sharing = self._sharing(segment_id)
        if sharing and not _values_in(self._layer(segment_id), mask).isdisjoint(map(self._value, sharing)):
            self._segmentation.SeparateSegmentLabelmap(segment_id)
        self._make_room(segment_id, mask.box)
        voxels = _voxels(self._layer(segment_id))[mask.box.within(self._extent(segment_id))]
        voxels[mask.array] = self._value(segment_id)
        self._layer(segment_id).Modified()

    def _make_room(self, segment_id: str, box: VoxelBox) -> None:
        """Let the labelmap of a segment reach over a box."""
        import vtk

        layer, extent = self._layer(segment_id), self._extent(segment_id)
        if extent is not None and extent.holds(box):
            return
        matrix = self._matrix()
        kept = None if extent is None else _voxels(layer).copy()
        union = box if extent is None else extent.union(box)
        grown, volume = union.grown(_ROOM), self._volume_box()
        if volume is not None:
            grown = grown.intersection(volume.union(union))
        scalar_type = vtk.VTK_UNSIGNED_CHAR if extent is None else layer.GetScalarType()
        layer.SetExtent(*grown.extent)
        layer.AllocateScalars(scalar_type, 1)
        layer.SetImageToWorldMatrix(matrix_from_array(matrix))
        voxels = _voxels(layer)
        voxels[...] = 0
        if kept is not None:
            voxels[extent.within(grown)] = kept

    def _volume_box(self) -> VoxelBox | None:
        """The whole volume in the grid of the labelmaps; None where their voxels do not coincide."""
        volume = grid_of(self._volume_node)
        offset = volume.offset_in(self._grid())
        return None if offset is None else VoxelBox(offset, tuple(map(int.__add__, offset, volume.dimensions)))

    def _surfaces(self) -> dict[str, Any]:
        """The surface of each segment that has one, as 3D views show it."""
        surfaces = {
            name: self._segmentation.GetSegment(name).GetRepresentation(_SURFACE)
            for name in self._segmentation.GetSegmentIDs()
        }
        return {name: surface for name, surface in surfaces.items() if surface is not None}

    def _make_surfaces(self, valid: dict[str, Any]) -> None:
        """Surfaces of all segments; those that are valid still are put back, for a change takes them all away."""
        for name, surface in valid.items():
            self._segmentation.GetSegment(name).AddRepresentation(_SURFACE, surface)
        self._segmentation.CreateRepresentation(_SURFACE)

    @contextlib.contextmanager
    def _modifying(self, edit: Edit) -> Iterator[None]:
        with self.as_one():
            assert self._changed is not None
            self._changed |= {edit.segment_id, *edit.taken}
            yield


def _matrix_of(image: Any) -> np.ndarray:
    import vtk

    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    return array_from_matrix(matrix)


def _voxels(layer: Any) -> np.ndarray:
    """(K, J, I) of the extent of a labelmap; a view, writing changes it."""
    from vtkmodules.util.numpy_support import vtk_to_numpy

    return vtk_to_numpy(layer.GetPointData().GetScalars()).reshape(VoxelBox.from_extent(layer.GetExtent()).shape)


def _values_in(layer: Any, mask: VoxelMask) -> set[int]:
    """The values that a labelmap has where a mask is, 0 included."""
    extent = None if layer.IsEmpty() else VoxelBox.from_extent(layer.GetExtent())
    common = None if extent is None else extent.intersection(mask.box)
    if common is None:
        return set()
    left = _voxels(layer)[common.within(extent)][mask.array[common.within(mask.box)]]
    values = set()
    while left.size:  # few values: faster than to sort, as np.unique does
        values.add(int(left[0]))
        left = left[left != left[0]]
    return values
