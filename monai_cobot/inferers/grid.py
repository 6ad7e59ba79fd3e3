"""Between the grid of a file, the LPS frame in which volumes are worked on, and the slices in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from monai_cobot.data import Volume

__all__ = [
    "SLICE_NORMALS",
    "Box",
    "Region",
    "region_from_source",
    "region_to_source",
    "slice_axis_from_source",
    "slice_shape",
]

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels of a slice, half-open."""

SLICE_NORMALS = {"sagittal": 0, "coronal": 1, "axial": 2}
"""The axis of the LPS frame along which slices follow one another."""

_LPS = axcodes2ornt("LPS")


@dataclass(frozen=True)
class Region:
    """A box of voxels, half-open.

    Attributes:
        low: (i, j, k), the first voxel.
        high: (i, j, k), one past the last voxel.
    """

    low: tuple[int, int, int]
    high: tuple[int, int, int]

    def __post_init__(self) -> None:
        if any(first >= end for first, end in zip(self.low, self.high, strict=True)):
            raise ValueError(
                f"The region from {self.low} to {self.high} is empty or inverted: every index of low must be less than "
                "that of high."
            )

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """To index an array (I, J, K) with."""
        i, j, k = (slice(first, end) for first, end in zip(self.low, self.high, strict=True))
        return i, j, k

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along I, J and K."""
        i, j, k = (end - first for first, end in zip(self.low, self.high, strict=True))
        return i, j, k

    def clipped(self, shape: Sequence[int]) -> Region:
        """The part inside a volume of this shape (I, J, K).

        Raises:
            ValueError: where nothing of it is inside.
        """
        low = _three(max(0, first) for first in self.low)
        high = _three(min(length, end) for length, end in zip(shape, self.high, strict=True))
        if any(first >= end for first, end in zip(low, high, strict=True)):
            raise ValueError(
                f"The region from {self.low} to {self.high} is outside the volume, which has {shape} voxels."
            )
        return Region(low, high)

    def union(self, other: Region) -> Region:
        """The smallest region that holds both."""
        return Region(
            _three(map(min, zip(self.low, other.low, strict=True))),
            _three(map(max, zip(self.high, other.high, strict=True))),
        )

    def grown(self, voxels: int) -> Region:
        """The region with so many voxels more on each side."""
        return Region(_three(first - voxels for first in self.low), _three(end + voxels for end in self.high))

    def within(self, other: Region) -> tuple[slice, slice, slice]:
        """To index an array of another region's shape with: what it shares with this one, which may be nothing."""
        low, high = (np.clip(np.subtract(end, other.low), 0, other.shape) for end in (self.low, self.high))
        i, j, k = (slice(int(first), int(end)) for first, end in zip(low, high, strict=True))
        return i, j, k

    def in_slices(self, axis: str, limits: range) -> Region:
        """The part that is in some slices of an axis.

        Raises:
            ValueError: where nothing of it is.
        """
        low, high, normal = list(self.low), list(self.high), SLICE_NORMALS[axis]
        low[normal], high[normal] = max(low[normal], limits.start), min(high[normal], limits.stop)
        return Region(_three(low), _three(high))

    def indices(self, axis: str) -> range:
        """The slices along an axis that meet the region."""
        normal = SLICE_NORMALS[axis]
        return range(self.low[normal], self.high[normal])

    def box(self, axis: str, shape: Sequence[int]) -> Box:
        """What slices along an axis show of the region, as `monai_cobot.transforms.take_slice` shows them.

        Args:
            axis: slice axis.
            shape: (I, J, K) of the volume; superior is on top of coronal and sagittal slices.
        """
        (i0, j0, k0), (i1, j1, k1), top = self.low, self.high, shape[2]
        return {
            "axial": (float(i0), float(j0), float(i1), float(j1)),
            "coronal": (float(i0), float(top - k1), float(i1), float(top - k0)),
            "sagittal": (float(j0), float(top - k1), float(j1), float(top - k0)),
        }[axis]

    @classmethod
    def around(cls, mask: np.ndarray) -> Region | None:
        """The smallest region that holds the foreground of a mask (I, J, K); None for an empty one."""
        # NumPy is twenty times slower where it is asked for two axes at once and the last one is kept
        projected = np.asarray(mask.any(axis=0))  # (J, K)
        lines = mask.reshape(len(mask), -1).any(axis=1), projected.any(axis=1), projected.any(axis=0)
        present = [np.flatnonzero(line) for line in lines]
        if present[0].size == 0:
            return None
        return cls(_three(int(indices[0]) for indices in present), _three(int(indices[-1]) + 1 for indices in present))


def region_from_source(region: Region, volume: Volume) -> Region:
    """A region of the grid of the file or array that a volume was made from -> the same in the volume's LPS frame."""
    low, high = [0, 0, 0], [0, 0, 0]
    for source_axis, (lps_axis, direction) in enumerate(_turn(volume)):
        first, end = region.low[source_axis], region.high[source_axis]
        length = volume.source_shape[source_axis]
        low[int(lps_axis)], high[int(lps_axis)] = (first, end) if direction > 0 else (length - end, length - first)
    return Region(_three(low), _three(high))


def region_to_source(region: Region, volume: Volume) -> Region:
    """A region of the LPS frame -> the same on the grid of the file or array that the volume was made from."""
    low, high = [], []
    for source_axis, (lps_axis, direction) in enumerate(_turn(volume)):
        first, end = region.low[int(lps_axis)], region.high[int(lps_axis)]
        length = volume.source_shape[source_axis]
        low.append(first if direction > 0 else length - end)
        high.append(end if direction > 0 else length - first)
    return Region(_three(low), _three(high))


def slice_axis_from_source(axis: int, volume: Volume) -> str:
    """The slice axis along an axis (0, 1, 2) of the grid of the file or array that a volume was made from."""
    normal = int(_turn(volume)[axis, 0])
    return next(name for name, number in SLICE_NORMALS.items() if number == normal)


def slice_shape(shape: Sequence[int], axis: str) -> tuple[int, int]:
    """Rows and columns of the slices along an axis of a volume of this shape (I, J, K).

    Raises:
        ValueError: there is no such axis.
    """
    if axis not in SLICE_NORMALS:
        raise ValueError(f"unknown slice axis {axis!r}; choose one of {', '.join(SLICE_NORMALS)}.")
    i, j, k = shape
    return {"axial": (j, i), "coronal": (k, i), "sagittal": (k, j)}[axis]


def _turn(volume: Volume) -> np.ndarray:
    """(3, 2): for each axis of the file, the axis of the LPS frame and 1 or -1, the direction along it."""
    return ornt_transform(io_orientation(volume.source_affine), _LPS)


def _three(values: Iterable[int]) -> tuple[int, int, int]:
    i, j, k = values
    return i, j, k
