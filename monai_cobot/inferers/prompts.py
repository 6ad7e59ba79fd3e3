"""What a user draws on a slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from monai_cobot.inferers.grid import Box
from monai_cobot.transforms import check_box

__all__ = ["Point", "SlicePrompts"]


@dataclass(frozen=True)
class Point:
    """A click on a slice.

    Attributes:
        x: pixels from the left edge of the slice; the middle of its first pixel lies at 0.5.
        y: pixels from its upper edge.
        inside: whether it lies in the object; one outside takes what is there away.
    """

    x: float
    y: float
    inside: bool = True


@dataclass(frozen=True)
class SlicePrompts:
    """What one slice is segmented with for one object: a box, points, or points with a box.

    Attributes:
        box: x0, y0, x1, y1 in pixels of the slice as `monai_cobot.transforms.take_slice` shows it, half-open.
        points: any number.
        origin: ``"drawn"`` on this slice by a user, the cross-section of a 3D box (``"region"``), or the box that came
            from other slices (``"propagated"``).
    """

    box: Box | None = None
    points: tuple[Point, ...] = ()
    origin: Literal["drawn", "region", "propagated"] = "drawn"

    def check(self, shape: Sequence[int]) -> None:
        """Whether they can be used on a slice of this shape (H, W).

        Raises:
            ValueError: says what is wrong.
        """
        height, width = shape
        if self.box is None and not any(point.inside for point in self.points):
            raise ValueError("A slice wants a box, or at least one point inside the object; there is neither.")
        if self.box is not None:
            check_box(np.asarray(self.box), (height, width))
        for point in self.points:
            if not (0 <= point.x <= width and 0 <= point.y <= height):
                raise ValueError(
                    f"Point ({point.x:g}, {point.y:g}) is outside the slice, which is {width} pixels wide and {height} "
                    "high."
                )
