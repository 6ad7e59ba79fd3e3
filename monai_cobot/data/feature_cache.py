"""Features of images on disk, so that what a frozen encoder makes of an image is computed once."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from monai_cobot.files import written_beside

__all__ = ["FeatureCache", "delete_features", "image_digest", "releases"]

logger = logging.getLogger(__name__)

_SUFFIX = ".safetensors"
_TYPES = (torch.float32, torch.bfloat16)

# Where an entry lies below the folder, or what a process that was killed left of one.
_ENTRY = re.compile(
    r"[^/]+/(?P<begin>[0-9a-f]{2})/(\.(?P=begin)[0-9a-f]{30}\.safetensors\.[^/]+/)?(?P=begin)[0-9a-f]{30}\.safetensors"
)

# Other processes write too, so that the folder must be looked at from time to time: after this share of the bound.
_SCAN_SHARE = 1 / 16


def image_digest(image: Tensor) -> str:
    """A name for an image by its content: 32 hexadecimal digits of a hash of type, shape and values."""
    array = image.detach().contiguous().numpy()
    digest = hashlib.blake2b(f"{array.dtype}{array.shape}".encode(), digest_size=16)
    digest.update(array.data)
    return digest.hexdigest()


def releases() -> str:
    """What computes features besides the weights, for the name of their source.

    Images are resized and normalised on the way, which another release may do differently.
    """
    return "_".join(f"{package}-{version(package)}" for package in ("monai_cobot", "torch"))


class FeatureCache:
    """One file an image in a folder, memory-mapped when it is read; the folder never grows far beyond a bound.

    The folder may be shared by processes and by trainings with other weights, and may be deleted at any time. Entries
    that were not used for longest go first; whatever else lies in the folder neither counts nor goes. An entry that is
    damaged, or is not what its name says, is deleted and counts as absent. Where the disk is full nothing more is kept,
    with a warning.

    Args:
        folder: where the files are; made with the first entry.
        source: what the features come from, as the name of a folder below: everything besides the image that they
            depend on, such as the network's weights.
        max_gb: bound of the folder in units of 10^9 bytes, for all sources together.
        dtype: the type in which features are kept, float32 or bfloat16.
        keep_used: whether entries that were used since this object was made stay, by whatever process. For who takes
            all images in turn, again and again: where they do not all fit, those that went first would be the next to
            be asked for, and nothing would ever be found. Nothing more is kept where only such entries could go, with
            a warning.

    Raises:
        ValueError: for a bound that is not positive, or another type.
    """

    def __init__(
        self,
        folder: str | Path,
        source: str,
        max_gb: float = 20.0,
        dtype: torch.dtype = torch.float32,
        keep_used: bool = False,
    ) -> None:
        if not max_gb > 0:
            raise ValueError(f"A feature cache of {max_gb} GB holds nothing: expected more than 0.")
        if dtype not in _TYPES:
            raise ValueError(f"Features are kept as float32 or bfloat16, not as {dtype}.")
        self.folder = Path(folder)
        self.source = source
        self.max_bytes = int(max_gb * 1e9)
        self.dtype = dtype
        self.keep_used = keep_used
        self._since = time.time_ns()
        self._used: set[Path] = set()
        self._bytes_until_scan = 0
        self._writes = True

    def get(self, digest: str) -> Tensor | None:
        """The features of the image of that digest, in the cache's type on the CPU, or None."""
        path = self._path(digest)
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                features = file.get_tensor("features")
            if about != self._about(digest, features):
                raise ValueError("it is not what was written")
        except OSError as error:  # it may be right, and readable another time
            if not isinstance(error, FileNotFoundError):
                logger.warning("%s cannot be read (%s); it is computed again.", path, error)
            return None
        except (SafetensorError, ValueError, RuntimeError) as error:
            if not path.exists():  # deleted between two looks at it
                return None
            logger.warning("%s is damaged (%s); it is computed again.", path, error)
            _delete(path)
            return None
        self._used.add(path)
        with suppress(OSError):  # deleted meanwhile, or a folder that others keep
            os.utime(path)  # the last use decides what goes first
        return features

    def put(self, digest: str, features: Tensor) -> None:
        """Keep the features of an image; any shape, cast to the cache's type."""
        if not self._writes:
            return
        features = features.detach().to("cpu", self.dtype).contiguous()
        content = save({"features": features}, metadata=self._about(digest, features))
        if len(content) > self.max_bytes:
            logger.warning(
                "The features of an image take %.3g GB and are not kept: all of %s may take %.3g GB.",
                len(content) / 1e9,
                self.folder,
                self.max_bytes / 1e9,
            )
            return
        try:
            if not self._make_room(len(content)):
                self._writes = False
                logger.warning(
                    "The features of all images do not fit into the %.3g GB that %s may take: those that are kept "
                    "stay, and all others are computed in every epoch. Raise the bound (feature_cache_gb), keep "
                    "features in bfloat16 (feature_cache_type), or train on fewer slices.",
                    self.max_bytes / 1e9,
                    self.folder,
                )
                return
            path = self._path(digest)
            with written_beside(path) as beside:
                beside.write_bytes(content)
            self._used.add(path)
        except FileNotFoundError:  # another process deleted the folder meanwhile; the next image makes it anew
            logger.info("%s was deleted while an entry was written.", self.folder)
        except OSError as error:
            self._writes = False
            logger.warning("No more image features are kept in %s (%s); work goes on without.", self.folder, error)

    def _path(self, digest: str) -> Path:
        return self.folder / self.source / digest[:2] / f"{digest}{_SUFFIX}"

    def _about(self, digest: str, features: Tensor) -> dict[str, str]:
        """What is written beside features, and must be found again: where they belong, and their checksum."""
        checksum = zlib.crc32(features.reshape(-1).view(torch.uint8).numpy().data)
        return {"source": self.source, "digest": digest, "dtype": str(self.dtype), "crc32": f"{checksum:08x}"}

    def _make_room(self, size: int) -> bool:
        """Delete the entries that were not used for longest where another of so many bytes would not fit.

        Returns:
            Whether it fits now.
        """
        self._bytes_until_scan -= size
        if self._bytes_until_scan >= 0:
            return True
        entries = []
        for path in _entries(self.folder):
            try:
                status = path.stat()
            except OSError:  # deleted by another process meanwhile
                continue
            entries.append((status.st_mtime_ns, status.st_size, path))
        total = size + sum(length for _, length, _ in entries)
        # down to where nothing has to be looked at again before the next scan
        reserve = int(self.max_bytes * _SCAN_SHARE)
        if total > self.max_bytes:
            for used, length, path in sorted(entries):
                if total <= self.max_bytes - reserve:
                    break
                if self.keep_used and (path in self._used or used >= self._since):
                    continue
                _delete(path)
                total -= length
        self._bytes_until_scan = min(reserve, max(0, self.max_bytes - total))
        return total <= self.max_bytes or not self.keep_used


def delete_features(folder: Path) -> None:
    """Delete what caches keep in a folder, of all sources, and the folders that are empty then; all else stays."""
    for path in list(_entries(folder)):
        _delete(path)
        for emptied in path.parents:
            if emptied == folder.parent:
                break
            with suppress(OSError):  # there is more in it
                emptied.rmdir()


def _entries(folder: Path) -> Iterator[Path]:
    """The entries of all sources; adapters and SAM's own weights, which may lie there too, end alike."""
    for parent, _, names in os.walk(folder):  # passes over what others delete meanwhile
        for name in names:
            path = Path(parent, name)
            if _ENTRY.fullmatch(path.relative_to(folder).as_posix()):
                yield path


def _delete(path: Path) -> None:
    with suppress(OSError):  # deleted by another process, or on a system that keeps what is mapped
        path.unlink()
