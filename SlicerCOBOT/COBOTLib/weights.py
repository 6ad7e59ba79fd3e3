"""SAM's official weights: downloaded once, checked, and kept. A download shows progress and can be stopped."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import socket
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .engines.base import EngineError
from .jobs import Cancelled, Job

_PIECE = 1 << 20  # bytes


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights that is published.

    Attributes:
        name: of the file.
        url: where it is downloaded from.
        size: in bytes.
        sha256: of its content, 64 hexadecimal digits.
    """

    name: str
    url: str
    size: int
    sha256: str


VIT_B = WeightsFile(
    "sam_vit_b_01ec64.pth",
    "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth",
    375_042_383,
    "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
)
"""ViT-B of Kirillov et al., Segment Anything, ICCV 2023."""


def fetch(weights: WeightsFile, folder: Path, job: Job, timeout: float = 30.0) -> Path:
    """Download weights, unless the folder holds them already. Nothing is kept of a download that fails or is stopped.

    Args:
        weights: which.
        folder: where they are kept; made if it is missing.
        job: is told the bytes that are here, and stops this at once.
        timeout: seconds without a byte after which it is given up.

    Returns:
        the file, whose SHA-256 is right.

    Raises:
        EngineError: it could not be downloaded or written; says what to do.
        Cancelled: if so asked.
    """
    target = folder / weights.name
    beside: str | None = None
    try:
        if target.is_file() and _sha256(_pieces(target), weights, job) == weights.sha256:
            return target
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, beside = tempfile.mkstemp(dir=folder, prefix=f".{weights.name}.")
        with os.fdopen(descriptor, "wb") as file:
            found = _sha256(_received(weights, job, timeout), weights, job, file)
        if found != weights.sha256:
            raise EngineError(f"What came is not {weights.name}, or not all of it (its SHA-256 differs). Try again.")
        os.replace(beside, target)
    except OSError as error:
        raise EngineError(f"{target} cannot be written ({error}). Free some space, or correct its rights.") from error
    finally:
        if beside is not None:
            Path(beside).unlink(missing_ok=True)
    return target


def _sha256(pieces: Iterator[bytes], weights: WeightsFile, job: Job, file: Any = None) -> str:
    """The digest of what comes, which is written to the file if there is one."""
    digest, done = hashlib.sha256(), 0
    for piece in pieces:
        digest.update(piece)
        if file is not None:
            file.write(piece)
        done += len(piece)
        job.report(done, weights.size)
    job.check()
    return digest.hexdigest()


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def _received(weights: WeightsFile, job: Job, timeout: float) -> Iterator[bytes]:
    # urllib, because it knows the computer's proxy
    try:
        with (
            job.leave_if_cancelled(lambda: urllib.request.urlopen(weights.url, timeout=timeout)) as response,
            job.stopped_by(lambda: _shut(response)),
        ):
            while piece := response.read1(_PIECE):
                yield piece
    except (OSError, http.client.HTTPException) as error:
        if job.cancelled:
            raise Cancelled from None
        raise EngineError(
            f"{weights.name} could not be downloaded ({error}). Try again, or download {weights.url} with a browser "
            'and choose the file under "SAM weights".'
        ) from error


def _shut(response: Any) -> None:
    """End whatever waits for the connection, on any thread."""
    # it may have come to its end just now, or the other side closed it
    with contextlib.suppress(OSError, AttributeError, ValueError):
        connection = socket.socket(fileno=response.fileno())
        try:
            connection.shutdown(socket.SHUT_RDWR)
        finally:
            connection.detach()  # it is the response's to close
