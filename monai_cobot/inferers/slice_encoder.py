"""The image embeddings of a volume's slices: computed when they are asked for, or ahead in the background."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from torch import Tensor

from monai_cobot.data import Volume, image_digest
from monai_cobot.inferers.adapters import AdaptedSam
from monai_cobot.inferers.cancel import Cancelled, CancelToken
from monai_cobot.inferers.embedding_cache import EmbeddingCache
from monai_cobot.inferers.grid import slice_shape
from monai_cobot.transforms import intensity_range, scale_intensity, take_slice

__all__ = ["SliceEncoder", "guess_preset"]

_Slice = tuple[AdaptedSam, str, str, int]
"""Model, intensity preset, slice axis, slice index."""

# of all encoders together, for they share the processor
_changed = threading.Condition()
_callers: set[object] = set()


class SliceEncoder:
    """Gives the embeddings of slices, each computed once.

    A single background thread encodes what :meth:`prefetch` names. Whoever asks for an embedding, of this volume or of
    another, goes first: the background threads then wait between two blocks of the encoder, unless one is at work on
    just that slice.

    Args:
        volume: whose slices.
        cache: where embeddings are kept.
    """

    def __init__(self, volume: Volume, cache: EmbeddingCache) -> None:
        self._volume = volume
        self._cache = cache
        self._ranges: dict[str, tuple[float, float]] = {}
        self._digests: dict[tuple[str, str, int], str] = {}
        self._in_work: set[tuple[str, str]] = set()
        self._waiting_for: set[tuple[str, str]] = set()
        self._ahead: list[_Slice] = []
        self._thread: threading.Thread | None = None
        self._closed = False

    def image(self, preset: str, axis: str, index: int) -> Tensor:
        """A slice as the network takes it: (1, 1 or 3, H, W) float32 in [0, 1]."""
        if preset not in self._ranges:
            self._ranges[preset] = intensity_range(self._volume.array, preset)
        return scale_intensity(take_slice(self._volume.array, axis, index), *self._ranges[preset]).unsqueeze(0)

    def shape(self, axis: str) -> tuple[int, int]:
        """Rows and columns of a slice."""
        return slice_shape(self._volume.array.shape[1:], axis)

    def spacing(self, axis: str) -> tuple[float, float, float]:
        """Millimetres between slices, between rows and between columns."""
        i, j, k = self._volume.spacing
        return {"axial": (k, j, i), "coronal": (j, k, i), "sagittal": (i, k, j)}[axis]

    def embedding(self, model: AdaptedSam, preset: str, axis: str, index: int, cancel: CancelToken) -> Tensor:
        """The embedding (1, C, h, w) of a slice, on the model's device.

        Raises:
            Cancelled: within a block's time of the encoder.
        """
        with self._as_caller():
            return self._embedding((model, preset, axis, index), lambda _: cancel.check())

    def prefetch(self, model: AdaptedSam, preset: str, axis: str, indices: Sequence[int]) -> None:
        """Encode slices in the background, in this order, instead of those that an earlier call named."""
        with _changed:
            if self._closed:
                return
            self._ahead = [(model, preset, axis, index) for index in indices]
            if self._ahead and self._thread is None:
                self._thread = threading.Thread(target=self._work_ahead, name="cobot-prefetch", daemon=True)
                self._thread.start()
                # a thread that Python's end stops inside PyTorch would abort the program
                atexit.register(self.close)
            _changed.notify_all()

    def close(self) -> None:
        """Stop the background thread; returns when it has stopped, within a block's time of the encoder."""
        with _changed:
            self._closed = True
            self._ahead = []
            _changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            atexit.unregister(self.close)

    @contextmanager
    def _as_caller(self) -> Iterator[None]:
        with _changed:
            _callers.add(caller := object())
        try:
            yield
        finally:
            with _changed:
                _callers.discard(caller)
                _changed.notify_all()

    def _embedding(self, wanted: _Slice, between: Callable[[tuple[str, str]], None]) -> Tensor:
        """Looks it up, waits for a thread that is at it, or computes it; ``between`` is called between blocks."""
        model, preset, axis, index = wanted
        key = (model.embedding_source, self._digest(preset, axis, index))
        device = model.network.sam.pixel_mean.device
        while True:
            found = self._cache.get(*key)
            if found is not None:
                return found.to(device)
            with _changed:
                if key not in self._in_work:
                    self._in_work.add(key)
                    break
                self._waiting_for.add(key)
                _changed.notify_all()
                _changed.wait(timeout=0.05)
            between(key)
        try:
            embedding = self.image(preset, axis, index).to(device)
            for features in model.network.encode_stepwise(embedding):
                between(key)
                embedding = features.values
            self._cache.put(*key, embedding)
            return embedding
        finally:
            with _changed:
                self._in_work.discard(key)
                self._waiting_for.discard(key)
                _changed.notify_all()

    def _digest(self, preset: str, axis: str, index: int) -> str:
        key = (preset, axis, index)
        if key not in self._digests:
            self._digests[key] = image_digest(self.image(preset, axis, index))
        return self._digests[key]

    def _work_ahead(self) -> None:
        while True:
            with _changed:
                while not self._closed and (not self._ahead or _callers):
                    _changed.wait()
                if self._closed:
                    return
                wanted = self._ahead.pop(0)
            with suppress(Cancelled, ValueError, RuntimeError):  # whoever asks for the slice itself meets the error
                self._embedding(wanted, self._give_way)

    def _give_way(self, key: tuple[str, str]) -> None:
        """Waits while someone else computes, unless for this very embedding."""
        with _changed:
            while _callers and key not in self._waiting_for and not self._closed:
                _changed.wait()
            if self._closed:
                raise Cancelled


def guess_preset(volume: Volume) -> str:
    """The intensity preset for a model that names none: photographs, CT by its air, all else as MR."""
    if volume.array.shape[3] == 1 and volume.array.dtype == "uint8":
        return "photo"
    return "ct_abdomen" if volume.array.min() <= -500 else "mr"
