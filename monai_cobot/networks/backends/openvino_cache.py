"""Converted image encoders on disk."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import zlib
from contextlib import suppress
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

import openvino
import platformdirs
import torch
from torch import nn

from monai_cobot.files import written_beside

logger = logging.getLogger(__name__)

MAX_BYTES = 10 * 10**9
"""Bound of the folder; a converted encoder takes 4 bytes a weight, 0.36 GB for ViT-B and 2.5 GB for ViT-H."""

_GRAPH, _WEIGHTS, _CHECKSUM = "encoder.xml", "encoder.bin", "crc32.txt"

# the second is what a process that was killed left half-written
_ENTRY = re.compile(r"[0-9a-f]{32}|\.[0-9a-f]{32}\..+")


class OpenVinoCache:
    """One folder a converted encoder, named by the digest of what it was converted from.

    The folder may be shared by processes and may be deleted at any time. Entries that were not used for longest go
    where the bound is passed; whatever else lies in the folder neither counts nor goes. An entry that is damaged is
    deleted and counts as absent. Where nothing can be written, nothing is kept, with a warning.

    Args:
        folder: made with the first entry; ``monai_cobot/openvino`` in the user's cache if None.
        max_bytes: bound of all entries together.
    """

    def __init__(self, folder: str | PathLike[str] | None = None, max_bytes: int = MAX_BYTES) -> None:
        self.folder = platformdirs.user_cache_path("monai_cobot") / "openvino" if folder is None else Path(folder)
        self.max_bytes = max_bytes

    def get(self, digest: str) -> Any | None:
        """The ``openvino.Model`` of that digest, or None."""
        entry = self.folder / digest
        if not entry.exists():
            return None
        try:
            if (entry / _CHECKSUM).read_text(encoding="utf-8") != _checksum(entry):
                raise ValueError("it is not what was written")
            model = openvino.Core().read_model(entry / _GRAPH)
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).strip().partition("\n")[0]
            logger.warning("The converted encoder %s is damaged (%s); it is converted again.", entry, reason)
            shutil.rmtree(entry, ignore_errors=True)
            return None
        with suppress(OSError):  # a folder that others keep
            os.utime(entry)  # the last use decides what goes first
        return model

    def put(self, digest: str, model: Any) -> None:
        """Keep a converted encoder, whole or not at all."""
        entry = self.folder / digest
        try:
            with written_beside(entry) as beside:
                beside.mkdir()
                openvino.save_model(model, beside / _GRAPH, compress_to_fp16=False)
                (beside / _CHECKSUM).write_text(_checksum(beside), encoding="utf-8")
        except (OSError, RuntimeError) as error:
            if not entry.exists():  # another process may have been first
                logger.warning("The converted encoder is not kept (%s); the next start converts it again.", error)
            return
        self._make_room(entry)

    def _make_room(self, newest: Path) -> None:
        """Delete the entries that were not used for longest until the others fit, but never the newest."""
        entries = []
        for entry in self.folder.iterdir():
            if not _ENTRY.fullmatch(entry.name):
                continue
            with suppress(OSError):  # deleted by another process meanwhile
                files = [path for path in entry.rglob("*") if not path.is_dir()]
                # the user may have named a folder in which others keep theirs, under names like ours
                if files and {file.name for file in files} <= {_GRAPH, _WEIGHTS, _CHECKSUM}:
                    entries.append((entry.stat().st_mtime_ns, sum(file.stat().st_size for file in files), entry))
        total = sum(size for _, size, _ in entries)
        for _, size, entry in sorted(entries):
            if total > self.max_bytes and entry != newest:
                shutil.rmtree(entry, ignore_errors=True)
                total -= size


def encoder_digest(encoder: nn.Module) -> str:
    """A name for what an image encoder computes: 32 hexadecimal digits.

    Over the versions of what converts it; the kinds and plain attributes of all its modules, among them the image size
    and what an adapter multiplies by; and the names, types, shapes and values of all its parameters and buffers. The
    precision is no part of it: converted weights are float32 and are rounded when they are loaded.
    """
    versions = " ".join(version(package) for package in ("monai_cobot", "torch", "openvino"))
    digest = hashlib.blake2b(versions.encode(), digest_size=16)
    for name, module in encoder.named_modules():
        kind = f"{type(module).__module__}.{type(module).__qualname__}"
        attributes = {key: value for key, value in sorted(vars(module).items()) if _is_plain(key, value)}
        digest.update(f"{name} {kind} {attributes}\n".encode())
    for name, tensor in (*encoder.named_parameters(), *encoder.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        values = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)
        digest.update(values.numpy().data)
    return digest.hexdigest()


def _is_plain(key: str, value: object) -> bool:
    """Whether an attribute of a module says what it computes, and reads the same in every process."""
    if isinstance(value, (tuple, list)):
        return not key.startswith("_") and all(_is_plain(key, item) for item in value)
    if isinstance(value, dict):
        return not key.startswith("_") and all(_is_plain(key, item) for item in value.values())
    return not key.startswith("_") and key != "training" and isinstance(value, (bool, int, float, str, type(None)))


def _checksum(entry: Path) -> str:
    """Of the two files of a converted encoder."""
    checksum = 0
    for name in (_GRAPH, _WEIGHTS):
        with (entry / name).open("rb") as file:
            while part := file.read(2**22):
                checksum = zlib.crc32(part, checksum)
    return f"{checksum:08x}"
