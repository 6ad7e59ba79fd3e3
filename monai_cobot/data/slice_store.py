"""Where a data set keeps its slices: in memory as far as they fit, and beyond that in a file."""

from __future__ import annotations

import os
import tempfile
from multiprocessing import reduction
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["SliceStore", "SlicesOnDisk"]


class SliceStore:
    """Keeps arrays of slices, the first in memory and all that exceed a bound in one file without a name.

    The file goes with the last process that uses it, however that ends. Loader workers share it, forked or spawned.
    Where the system cannot read one file from several processes at once (Windows), all stays in memory.

    Args:
        max_gb: bound of the memory in units of 10^9 bytes.
        folder: where the file goes, on a fast disk, made where it is missing; None for the system's folder for such
            files.
    """

    def __init__(self, max_gb: float, folder: str | Path | None = None) -> None:
        self.folder = folder
        self._memory_left = int(max_gb * 1e9)
        self._file: _ScratchFile | None = None

    def keep(self, slices: np.ndarray) -> np.ndarray | SlicesOnDisk:
        """Keeps (slices, ...) and returns what gives each slice back by its position.

        Raises:
            OSError: where the disk is full.
        """
        slices = np.ascontiguousarray(slices)
        if slices.nbytes <= self._memory_left or not hasattr(os, "pread"):
            self._memory_left -= slices.nbytes
            return slices
        if self._file is None:
            self._file = _ScratchFile(self.folder)
        return SlicesOnDisk(self._file, self._file.append(slices), slices.dtype, slices.shape)


class SlicesOnDisk:
    """An array of slices in a file, of which one is read at a time: nothing stays in memory.

    Attributes:
        shape: (slices, ...).
        dtype: as of an array.
    """

    def __init__(self, file: _ScratchFile, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        self.dtype = dtype
        self.shape = shape
        self._file = file
        self._offset = offset

    def __getitem__(self, position: int) -> np.ndarray:
        """The slice at a position, 0 to the number of slices - 1; read-only."""
        shape = self.shape[1:]
        size = self.dtype.itemsize * int(np.prod(shape))
        content = self._file.read(self._offset + position * size, size)
        return np.frombuffer(content, self.dtype).reshape(shape)


class _ScratchFile:
    """A file without a name that is written at its end and read anywhere, by several processes at once."""

    def __init__(self, folder: str | Path | None) -> None:
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            self._descriptor = os.dup(file.fileno())
        self._folder = folder or tempfile.gettempdir()
        self._length = 0

    def append(self, array: np.ndarray) -> int:
        """Writes an array and returns where it begins."""
        offset = self._length
        rest = array.data.cast("B")
        while rest:
            try:
                written = os.pwrite(self._descriptor, rest, self._length)
            except OSError as error:
                raise OSError(
                    error.errno,
                    f"{error.strerror}: the slices of the data set could not be kept. Free some space, choose another "
                    "slice_cache_dir, or fewer cases with max_cases",
                    str(self._folder),
                ) from error
            self._length += written
            rest = rest[written:]
        return offset

    def read(self, offset: int, size: int) -> bytes:
        """So many bytes from a place in the file on."""
        return os.pread(self._descriptor, size, offset)

    def __del__(self) -> None:
        os.close(self._descriptor)

    def __reduce__(self) -> tuple[object, ...]:
        """To a process that is spawned the open file is handed over, not what it holds."""
        return _handed_over, (reduction.DupFd(self._descriptor), self._folder, self._length)


def _handed_over(descriptor: Any, folder: str | Path, length: int) -> _ScratchFile:
    file = _ScratchFile.__new__(_ScratchFile)
    file._descriptor, file._folder, file._length = descriptor.detach(), folder, length
    return file
