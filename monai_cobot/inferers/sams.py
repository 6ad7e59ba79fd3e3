"""Several SAMs, each in memory once, with the adapters that belong to them."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

import torch

from monai_cobot.inferers.adapters import AdaptedSam, AdapterShelf
from monai_cobot.networks import VARIANTS, build_sam
from monai_cobot.networks.sam import PACKAGED_VARIANT
from monai_cobot.peft import read_adapter_config

__all__ = ["SamCollection", "default_device"]


class SamCollection:
    """SAMs by variant and image size, built when they are first asked for; any number of threads may use it.

    Who asks for what takes long to build or to convert holds up only those who ask for the same.

    Args:
        checkpoints: variant -> file of its weights. ``vit_mini`` need not be named, its weights come with the package.
        device: None for ``default_device``.
        precision: as in :class:`~monai_cobot.networks.PromptableSam`.
        backend: as in :func:`~monai_cobot.networks.accelerate`.
    """

    def __init__(
        self,
        checkpoints: Mapping[str, Path | None] | None = None,
        device: str | None = None,
        precision: str = "auto",
        backend: str = "eager",
    ) -> None:
        self.checkpoints: dict[str, Path | None] = {**(checkpoints or {})}
        self.checkpoints.setdefault(PACKAGED_VARIANT, None)
        self.device = device or default_device()
        self._precision = precision
        self._backend = backend
        self._shelves: dict[tuple[str, int], AdapterShelf] = {}
        self._locks: defaultdict[Hashable, threading.Lock] = defaultdict(threading.Lock)
        self._guard = threading.Lock()

    def prepare(self, variant: str, image_size: int | None = None) -> None:
        """Build a SAM, and see whether the backend can run it here; nothing is converted yet.

        Raises:
            KeyError: there are no weights of this variant.
            ValueError, OSError: it cannot be built.
            BackendError: the backend that was asked for cannot run it.
        """
        self._shelf(variant, image_size)

    def bare(self, variant: str, image_size: int | None = None) -> AdaptedSam:
        """A SAM without an adapter; of its own image size where none is named.

        Raises:
            KeyError: there are no weights of this variant.
            ValueError, OSError: it cannot be built.
            BackendError: the backend that was asked for cannot run it.
        """
        shelf = self._shelf(variant, image_size)
        with self._one_at_a_time(shelf):
            return shelf.base

    def load(self, folder: str | PathLike[str]) -> AdaptedSam:
        """The adapter of a folder over its SAM; one that is loaded already, and did not change since, costs nothing.

        Raises:
            KeyError: there are no weights of the variant that it is for.
            AdapterError: the folder holds no complete adapter, or one of other weights.
            ValueError, OSError: its SAM cannot be built.
            BackendError: the backend that was asked for cannot run it.
        """
        config = read_adapter_config(folder)
        shelf = self._shelf(config.variant, config.image_size)
        with self._one_at_a_time(Path(folder).resolve()):
            return shelf.load(folder)

    def forget(self, adapted: AdaptedSam) -> None:
        """Give the memory of an adapter back."""
        for shelf in list(self._shelves.values()):
            shelf.forget(adapted)

    @contextmanager
    def _one_at_a_time(self, what: Hashable) -> Iterator[None]:
        with self._guard:
            lock = self._locks[what]
        with lock:
            yield

    def _shelf(self, variant: str, image_size: int | None) -> AdapterShelf:
        if variant not in self.checkpoints:
            raise KeyError(variant)
        key = (variant, image_size or VARIANTS[variant].image_size)
        with self._one_at_a_time(key):
            if key not in self._shelves:
                sam = build_sam(variant, self.checkpoints[variant], key[1])
                self._shelves[key] = AdapterShelf(sam, self.device, self._precision, self._backend)
            return self._shelves[key]


def default_device() -> str:
    """``"cuda"`` where PyTorch sees a GPU, else ``"cpu"``; Apple's ``"mps"`` is taken only where it is asked for, since
    it was never tested."""
    return "cuda" if torch.cuda.is_available() else "cpu"
