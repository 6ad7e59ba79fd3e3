"""The interface between Slicer and what segments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from ..grid import Grid, VoxelMask
from ..jobs import Job
from ..prompts import Prompt


class EngineError(RuntimeError):
    """An engine that cannot do what it was asked, with the reason and what to do."""


@dataclass(frozen=True, eq=False)
class Scan:
    """An image to segment: a volume, or a plane cut out of one.

    Attributes:
        key: says which image it is; another content has another key. Engines keep what they know of an image by it.
        name: what the user calls it.
        array: (K, J, I), one number a voxel. It is not changed while the scan is in use.
        grid: where its voxels are.
        volume: of a plane, the volume that it is cut out of, whose range of intensities is its own; else None.
    """

    key: str
    name: str
    array: np.ndarray
    grid: Grid
    volume: Scan | None = None


@dataclass(frozen=True)
class AdapterInfo:
    """A choice of what segments.

    Attributes:
        id: what the engine knows it by.
        title: for the list in the panel.
        description: for its tool tip.
    """

    id: str
    title: str
    description: str = ""


class Engine(ABC):
    """Segments scans. Every method is called on one worker thread, and never two at once."""

    @abstractmethod
    def test(self, job: Job) -> str:
        """Try whether it works, without a scan.

        Returns:
            a sentence for the user: what runs where, in which version.

        Raises:
            EngineError: says what is wrong and what to do.
            Cancelled: if so asked.
        """

    @abstractmethod
    def adapters(self, job: Job) -> list[AdapterInfo]:
        """What can segment, the best first.

        Raises:
            EngineError, Cancelled: as ``test``.
        """

    @abstractmethod
    def segment(self, scan: Scan, prompt: Prompt, adapter: str, preset: str | None, job: Job) -> VoxelMask | None:
        """Segment one object.

        Args:
            scan: the image.
            prompt: what was drawn, in voxels of the scan.
            adapter: id of an adapter of ``adapters``.
            preset: intensity preset, such as ``"ct_abdomen"`` or ``"window:-160,240"``; None for the adapter's own.
            job: is told the progress, and stops this.

        Returns:
            the mask in the grid of the scan; None where nothing was found.

        Raises:
            EngineError, Cancelled: as ``test``.
        """

    def forget_scans(self) -> None:  # noqa: B027 - not every engine keeps some
        """Give back what it holds of scans, here and elsewhere. Never fails."""

    def close(self) -> None:
        """Give back what it holds; it may be used again and is opened then. Never fails."""
        self.forget_scans()
