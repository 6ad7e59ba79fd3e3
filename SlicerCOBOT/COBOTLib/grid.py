"""Voxels: the grid of a volume, boxes and masks in it.

Indices are Slicer's (i, j, k); an array of a volume is (K, J, I), as ``slicer.util.arrayFromVolume`` gives it. The
centre of a voxel has whole indices. World coordinates are RAS in millimetres.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class VoxelBox:
    """A box of whole voxels, half-open: voxel (i, j, k) is inside where low <= (i, j, k) < high.

    Attributes:
        low: (i, j, k) of its first voxel.
        high: (i, j, k) behind its last voxel.

    Raises:
        ValueError: a box without voxels.
    """

    low: tuple[int, int, int]
    high: tuple[int, int, int]

    def __post_init__(self) -> None:
        if any(low >= high for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError(f"A box from {self.low} to {self.high} holds no voxel: low must be less than high.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(K, J, I) of an array with a value for each voxel."""
        i, j, k = (high - low for low, high in zip(self.low, self.high, strict=True))
        return k, j, i

    @property
    def extent(self) -> tuple[int, int, int, int, int, int]:
        """As VTK writes it: first and last index along i, j and k."""
        (i0, j0, k0), (i1, j1, k1) = self.low, self.high
        return i0, i1 - 1, j0, j1 - 1, k0, k1 - 1

    @classmethod
    def from_extent(cls, extent: tuple[int, ...]) -> VoxelBox:
        """The box of a VTK extent that is not empty."""
        i0, i1, j0, j1, k0, k1 = extent
        return cls((i0, j0, k0), (i1 + 1, j1 + 1, k1 + 1))

    @property
    def corners(self) -> np.ndarray:
        """(8, 3), the continuous indices of its corners: half a voxel beyond the centres of its outermost voxels."""
        return corners_of(np.array(self.low) - 0.5, np.array(self.high) - 0.5)

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """What picks the box out of an array (K, J, I) that begins at voxel (0, 0, 0)."""
        i, j, k = (slice(low, high) for low, high in zip(self.low, self.high, strict=True))
        return k, j, i

    def within(self, outer: VoxelBox) -> tuple[slice, slice, slice]:
        """What picks the box out of the array of a box that holds it."""
        offset = VoxelBox(
            tuple(low - start for low, start in zip(self.low, outer.low, strict=True)),
            tuple(high - start for high, start in zip(self.high, outer.low, strict=True)),
        )
        return offset.slices

    def holds(self, other: VoxelBox) -> bool:
        """Whether every voxel of the other box is in this one."""
        return self.intersection(other) == other

    def intersection(self, other: VoxelBox) -> VoxelBox | None:
        """The voxels that both have; None where there are none."""
        low = tuple(map(max, self.low, other.low))
        high = tuple(map(min, self.high, other.high))
        return VoxelBox(low, high) if all(map(int.__lt__, low, high)) else None

    def union(self, other: VoxelBox) -> VoxelBox:
        """The smallest box that holds both."""
        return VoxelBox(tuple(map(min, self.low, other.low)), tuple(map(max, self.high, other.high)))

    def grown(self, margin: int) -> VoxelBox:
        """The box with so many more voxels on every side."""
        return VoxelBox(tuple(index - margin for index in self.low), tuple(index + margin for index in self.high))


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of a volume are.

    Attributes:
        ijk_to_ras: (4, 4), from voxel indices to millimetres in the world, every parent transform included.
        dimensions: numbers of voxels along i, j and k.
    """

    ijk_to_ras: np.ndarray
    dimensions: tuple[int, int, int]

    @property
    def box(self) -> VoxelBox:
        """All its voxels."""
        return VoxelBox((0, 0, 0), self.dimensions)

    @property
    def spacing(self) -> np.ndarray:
        """(3,), voxel size along i, j and k in millimetres."""
        return np.linalg.norm(self.ijk_to_ras[:3, :3], axis=0)

    def to_ijk(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 3) in the world -> continuous voxel indices (N, 3)."""
        return transformed(np.linalg.inv(self.ijk_to_ras), points)

    def to_ras(self, indices: np.ndarray) -> np.ndarray:
        """Continuous voxel indices (N, 3) -> points (N, 3) in the world."""
        return transformed(self.ijk_to_ras, indices)

    def offset_in(self, other: Grid) -> tuple[int, int, int] | None:
        """Voxel (0, 0, 0) of this grid as a voxel of another one; None where the voxels of the two do not coincide.

        They may be a thousandth of a voxel apart at the corners: files hold rounded numbers.
        """
        between = np.linalg.inv(other.ijk_to_ras) @ self.ijk_to_ras
        offset = np.rint(between[:3, 3])
        shifted = np.eye(4)
        shifted[:3, 3] = offset
        corners = corners_of(np.zeros(3), np.array(self.dimensions) - 1.0)
        if np.abs(transformed(between, corners) - transformed(shifted, corners)).max() > 1e-3:
            return None
        i, j, k = (int(index) for index in offset)
        return i, j, k


@dataclass(frozen=True, eq=False)
class VoxelMask:
    """A mask of the voxels in a box; nothing is said of the voxels outside.

    Attributes:
        box: where it is.
        array: (K, J, I) of the box, bool.

    Raises:
        ValueError: an array of another shape or type than the box asks for.
    """

    box: VoxelBox
    array: np.ndarray

    def __post_init__(self) -> None:
        if self.array.dtype != bool or self.array.shape != self.box.shape:
            raise ValueError(
                f"Expected a bool array of the shape {self.box.shape} of its box, got {self.array.dtype} of "
                f"{self.array.shape}."
            )

    def cropped(self) -> VoxelMask | None:
        """The same mask in the smallest box, as a copy; None for an empty mask."""
        # projected once for i and j, which takes half the time of a pass for each
        projected = self.array.any(axis=0)  # (J, K)
        lines = projected.any(axis=0), projected.any(axis=1), self.array.reshape(len(self.array), -1).any(axis=1)
        present = [np.flatnonzero(line) for line in lines]  # along i, j, k
        if present[0].size == 0:
            return None
        box = VoxelBox(
            tuple(start + int(inside[0]) for start, inside in zip(self.box.low, present, strict=True)),
            tuple(start + int(inside[-1]) + 1 for start, inside in zip(self.box.low, present, strict=True)),
        )
        return VoxelMask(box, self.array[box.within(self.box)].copy())

    def shifted(self, offset: tuple[int, int, int]) -> VoxelMask:
        """The same mask, so many voxels further along i, j and k."""
        low, high = (tuple(map(int.__add__, corner, offset)) for corner in (self.box.low, self.box.high))
        return VoxelMask(VoxelBox(low, high), self.array)

    def clipped(self, box: VoxelBox) -> VoxelMask | None:
        """What of it lies in a box; None where nothing does."""
        inside = self.box.intersection(box)
        return None if inside is None else VoxelMask(inside, self.array[inside.within(self.box)])

    def in_slice(self, axis: int, index: int) -> VoxelMask | None:
        """What of it lies in a slice along an axis (0, 1, 2 for i, j, k), cropped; None where nothing does."""
        low, high = list(self.box.low), list(self.box.high)
        low[axis], high[axis] = max(low[axis], index), min(high[axis], index + 1)
        if low[axis] >= high[axis]:
            return None
        box = VoxelBox(tuple(low), tuple(high))
        return VoxelMask(box, self.array[box.within(self.box)]).cropped()

    def without_slices(self, axis: int, indices: Collection[int]) -> VoxelMask | None:
        """What of it lies in other slices along an axis, cropped; None where nothing does."""
        array = self.array.copy()
        for index in set(indices) & set(range(self.box.low[axis], self.box.high[axis])):
            array[(slice(None),) * (2 - axis) + (index - self.box.low[axis],)] = False
        return VoxelMask(self.box, array).cropped()


def resampled(mask: VoxelMask, source: Grid, target: Grid) -> VoxelMask | None:
    """A mask on another grid: each voxel is what the mask says at its centre. Where the voxels coincide, it is shifted.

    Args:
        mask: in the grid ``source``; what is outside its box is not in the mask.
        source: the grid of the mask.
        target: the grid wanted.

    Returns:
        the mask inside ``target``, cropped; None where it holds no voxel.
    """
    offset = source.offset_in(target)
    if offset is not None:
        shifted = mask.shifted(offset).clipped(target.box)
        return None if shifted is None else shifted.cropped()
    cropped = mask.cropped()
    if cropped is None:
        return None
    around = target.to_ijk(source.to_ras(cropped.box.corners))
    low, high = np.floor(around.min(axis=0)).astype(int), np.ceil(around.max(axis=0)).astype(int) + 1
    box = VoxelBox(tuple(low.tolist()), tuple(high.tolist())).intersection(target.box)
    if box is None:
        return None
    between = np.linalg.inv(source.ijk_to_ras) @ target.ijk_to_ras
    j, i = np.ogrid[box.slices[1:]]
    found = np.empty(box.shape, dtype=bool)
    for number, k in enumerate(range(box.low[2], box.high[2])):  # the memory of a slice is enough
        inside = np.ones(box.shape[1:], dtype=bool)
        indices = []
        for axis in range(3):
            place = between[axis, 0] * i + between[axis, 1] * j + between[axis, 2] * k + between[axis, 3]
            # rounded first: where voxels coincide, a centre must not fall to the neighbour by the last digit
            index = np.floor(np.round(place, 6) + 0.5).astype(int) - cropped.box.low[axis]
            inside &= (index >= 0) & (index < cropped.box.high[axis] - cropped.box.low[axis])
            indices.append(index)
        inside[inside] = cropped.array[tuple(index[inside] for index in reversed(indices))]
        found[number] = inside
    return VoxelMask(box, found).cropped()


def transformed(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (N, 3) through an affine matrix (4, 4) -> (N, 3)."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def corners_of(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The eight corners (8, 3) of the box between two points (3,)."""
    return np.array([[x, y, z] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])])
