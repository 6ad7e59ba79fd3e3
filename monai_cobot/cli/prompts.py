"""Boxes as they are written on a command line."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BoxOn", "parse_box"]


@dataclass(frozen=True)
class BoxOn:
    """A box that was written down.

    Attributes:
        slice: of a box on a slice; None in a picture or for a 3D box.
        numbers: x0, y0, x1, y1 of a slice, or i0, j0, k0, i1, j1, k1 of voxels in the file; half-open.
    """

    slice: int | None
    numbers: tuple[float, ...]


def parse_box(text: str) -> BoxOn:
    """Reads ``37:x0,y0,x1,y1`` (slice 37), ``x0,y0,x1,y1`` (a picture) or ``i0,j0,k0,i1,j1,k1`` (3D).

    Raises:
        ValueError: it is none of them.
    """
    head, colon, tail = text.rpartition(":")
    try:
        index = int(head) if colon else None
        numbers = tuple(float(number) for number in tail.split(","))
    except ValueError:
        numbers, index = (), None
    if len(numbers) not in (4, 6) or (len(numbers) == 6 and index is not None):
        raise ValueError(
            f"{text!r} is no box: write SLICE:x0,y0,x1,y1 for a slice of a volume, x0,y0,x1,y1 for a picture, or "
            "i0,j0,k0,i1,j1,k1 for a 3D box in voxels of the file."
        )
    return BoxOn(index, numbers)
