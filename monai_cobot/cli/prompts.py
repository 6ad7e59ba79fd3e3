"""Boxes and points as they are written on a command line."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from monai_cobot.inferers import Point

__all__ = ["BoxOn", "PointOn", "parse_box", "parse_point"]


@dataclass(frozen=True)
class BoxOn:
    """A box that was written down.

    Attributes:
        slice: of a box on a slice; None in a picture or for a 3D box.
        numbers: x0, y0, x1, y1 of a slice, or i0, j0, k0, i1, j1, k1 of voxels in the file; half-open.
    """

    slice: int | None
    numbers: tuple[float, ...]


@dataclass(frozen=True)
class PointOn:
    """A point that was written down.

    Attributes:
        slice: that it is on; None in a picture.
        x, y: pixels of the slice, the middle of its first pixel at 0.5.
        inside: whether it lies in the object.
    """

    slice: int | None
    x: float
    y: float
    inside: bool

    def point(self) -> Point:
        """As a session takes it."""
        from monai_cobot.inferers import Point

        return Point(self.x, self.y, self.inside)


def parse_box(text: str) -> BoxOn:
    """Reads ``37:x0,y0,x1,y1`` (slice 37), ``x0,y0,x1,y1`` (a picture) or ``i0,j0,k0,i1,j1,k1`` (3D).

    Raises:
        ValueError: it is none of them.
    """
    index, numbers = _parse(text)
    if len(numbers) not in (4, 6) or (len(numbers) == 6 and index is not None):
        raise ValueError(
            f"{text!r} is no box: write SLICE:x0,y0,x1,y1 for a slice of a volume, x0,y0,x1,y1 for a picture, or "
            "i0,j0,k0,i1,j1,k1 for a 3D box in voxels of the file."
        )
    return BoxOn(index, numbers)


def parse_point(text: str, inside: bool) -> PointOn:
    """Reads ``37:x,y`` (slice 37) or ``x,y`` (a picture).

    Raises:
        ValueError: it is neither.
    """
    index, numbers = _parse(text)
    if len(numbers) != 2:
        raise ValueError(f"{text!r} is no point: write SLICE:x,y for a slice of a volume, or x,y for a picture.")
    x, y = numbers
    return PointOn(index, x, y, inside)


def _parse(text: str) -> tuple[int | None, tuple[float, ...]]:
    """Slice and numbers; no numbers where it is not written so."""
    head, colon, tail = text.rpartition(":")
    try:
        index, numbers = int(head) if colon else None, tuple(float(number) for number in tail.split(","))
    except ValueError:
        return None, ()
    return (index, numbers) if all(map(math.isfinite, numbers)) else (None, ())
