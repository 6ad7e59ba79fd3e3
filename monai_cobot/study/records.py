"""What a run leaves in its folder: what it reached, or why it failed; and the lock that says it is being done."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from monai_cobot import __version__
from monai_cobot.files import read_json, write_atomically
from monai_cobot.reports import CaseScores

__all__ = [
    "Failure",
    "Record",
    "claimed",
    "clear_folder",
    "is_claimed",
    "read_failure",
    "read_record",
    "write_failure",
    "write_record",
]

RECORD_FILE = "result.json"
FAILURE_FILE = "failure.json"
LOCK_FILE = "lock"


@dataclass(frozen=True)
class Record:
    """What a run reached.

    Attributes:
        settings: the options, seed and learning rate that it was done with.
        scores: (case, label, DSC in [0, 1]) after the last epoch; empty where training diverged.
        ellipse: the same of the ellipse inscribed in the box, which needs no network; empty where there are no boxes.
        diverged: why there are no scores; None where there are.
        base_sha256: of the weights that were adapted, see :class:`~monai_cobot.peft.Adapter`; "" where nobody knows.
        encoder_parameters, decoder_parameters: how many numbers were trained.
        epochs: that were trained.
        seconds: of training in all, without validation.
        peak_memory: bytes, of the GPU where there is one and of the process elsewhere; None where it cannot be told.
        adapter_size: bytes of the adapter's weights.
        device: where it ran.
        package_version: of monai_cobot.
    """

    settings: dict[str, Any]
    scores: list[tuple[str, str, float]]
    ellipse: list[tuple[str, str, float]] = field(default_factory=list)
    diverged: str | None = None
    base_sha256: str = ""
    encoder_parameters: int = 0
    decoder_parameters: int = 0
    epochs: int = 0
    seconds: float = 0.0
    peak_memory: int | None = None
    adapter_size: int = 0
    device: str = "cpu"
    package_version: str = field(default=__version__)

    def dice(self) -> float | None:
        """The mean over labels of the mean over cases, in [0, 1]; None where training diverged."""
        return None if self.diverged is not None else _mean(self.scores)

    def ellipse_dice(self) -> float | None:
        """The same of the ellipse; None where there are no boxes."""
        return _mean(self.ellipse) if self.ellipse else None


@dataclass(frozen=True)
class Failure:
    """Why a run failed.

    Attributes:
        reason: what a user can do something about.
        when: seconds since 1970.
    """

    reason: str
    when: float = field(default_factory=time.time)


def read_record(folder: Path) -> Record | None:
    """What a run reached; None where it is not done.

    Raises:
        ValueError: the file is not one of a run.
    """
    path = folder / RECORD_FILE
    if not path.exists():
        return None
    try:
        values = read_json(path)
        scores = {
            name: [(case, label, dice) for case, label, dice in values[name]]
            for name in ("scores", "ellipse")
            if name in values
        }
        return Record(**{**values, **scores})
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: this is no result of a run ({error!r}). Delete it to do the run again.") from error


def write_record(folder: Path, record: Record) -> None:
    """Say that a run is done, and what it reached."""
    write_atomically(folder / RECORD_FILE, (json.dumps(asdict(record), indent=1, default=str) + "\n").encode())
    (folder / FAILURE_FILE).unlink(missing_ok=True)


def read_failure(folder: Path) -> Failure | None:
    """Why the last try failed; None where it did not."""
    try:
        return Failure(**read_json(folder / FAILURE_FILE))
    except FileNotFoundError:
        return None


def write_failure(folder: Path, reason: str) -> None:
    """Say that a run failed, and why."""
    write_atomically(folder / FAILURE_FILE, (json.dumps(asdict(Failure(reason)), indent=1) + "\n").encode())


def clear_folder(folder: Path) -> None:
    """Take away all that a run left, but for the lock, which the caller holds."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK_FILE:
            path.unlink()


@contextmanager
def claimed(folder: Path, patience: float = 0) -> Iterator[bool]:
    """Claim a run for this process until the block ends; gives False where another process has it.

    It is waited for as many seconds: one that only looks whether a run is claimed has it for a moment, too.

    The claim is a lock of the operating system on a file: however its owner ends, also killed or by a crash, nothing is
    left to clean up, and another process can go on. It works between processes of one machine, and between machines
    where their common file system has locks.
    """
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def is_claimed(folder: Path) -> bool:
    """Whether some process is at work on a run now."""
    if not (folder / LOCK_FILE).exists():
        return False
    with claimed(folder) as free:
        return not free


def _mean(scores: list[tuple[str, str, float]]) -> float:
    by_label = CaseScores()
    for case, label, dice in scores:
        by_label.add(case, label, dice)
    return by_label.mean()
