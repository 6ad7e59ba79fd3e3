"""Image embeddings that were computed once: in memory, then on disk, both bounded."""

from __future__ import annotations

import threading
from collections import OrderedDict
from os import PathLike
from pathlib import Path

from torch import Tensor

from monai_cobot.data.feature_cache import FeatureCache, delete_features

__all__ = ["EmbeddingCache"]


class EmbeddingCache:
    """Embeddings by what computed them and by the digest of their image. Any number of threads may use it.

    What was not used for longest leaves first, from memory and from disk. Sessions over several volumes, and several
    adapters, may share one.

    Args:
        max_memory_gb: bound of the embeddings in memory, in units of 10^9 bytes; they stay on their device.
        folder: where they are kept as well, across programs; None for memory alone. It may be deleted at any time;
            whatever else lies there stays.
        max_disk_gb: bound of the folder, in units of 10^9 bytes.

    Raises:
        ValueError: for a bound that is not positive.
    """

    def __init__(
        self, max_memory_gb: float = 2.0, folder: str | PathLike[str] | None = None, max_disk_gb: float = 10.0
    ) -> None:
        if not (max_memory_gb > 0 and max_disk_gb > 0):
            raise ValueError(
                f"An embedding cache of {max_memory_gb} GB in memory and {max_disk_gb} GB on disk holds nothing: "
                "expected more than 0; to keep nothing on disk, give no folder."
            )
        self.folder = None if folder is None else Path(folder)
        self._max_bytes = int(max_memory_gb * 1e9)
        self._max_disk_gb = max_disk_gb
        self._memory: OrderedDict[tuple[str, str], Tensor] = OrderedDict()
        self._disks: dict[str, FeatureCache] = {}
        self._bytes = 0
        self._memory_lock = threading.Lock()
        self._disk_lock = threading.Lock()

    def get(self, source: str, digest: str) -> Tensor | None:
        """The embedding of an image, as it was put, or None; one from disk is on the CPU."""
        key = (source, digest)
        with self._memory_lock:
            if key in self._memory:
                self._memory.move_to_end(key)
                return self._memory[key]
        if self.folder is None:
            return None
        with self._disk_lock:
            embedding = self._disk(self.folder, source).get(digest)
        if embedding is not None:
            self._keep(key, embedding)
        return embedding

    def put(self, source: str, digest: str, embedding: Tensor) -> None:
        """Keep an embedding; one that is larger than all of the memory's bound is kept on disk alone."""
        self._keep((source, digest), embedding)
        if self.folder is not None:
            with self._disk_lock:
                self._disk(self.folder, source).put(digest, embedding)

    def clear(self) -> None:
        """Forget everything, also on disk."""
        with self._memory_lock:
            self._memory.clear()
            self._bytes = 0
        with self._disk_lock:
            if self.folder is not None:
                delete_features(self.folder)
            self._disks.clear()

    def _keep(self, key: tuple[str, str], embedding: Tensor) -> None:
        with self._memory_lock:
            if key in self._memory:
                self._bytes -= self._memory.pop(key).nbytes
            if embedding.nbytes > self._max_bytes:
                return
            self._memory[key] = embedding
            self._bytes += embedding.nbytes
            while self._bytes > self._max_bytes:
                self._bytes -= self._memory.popitem(last=False)[1].nbytes

    def _disk(self, folder: Path, source: str) -> FeatureCache:
        if source not in self._disks:
            self._disks[source] = FeatureCache(folder, source, self._max_disk_gb)
        return self._disks[source]
