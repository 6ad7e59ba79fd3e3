"""Nothing half-written stays on disk: files and folders are written beside their place and then moved into it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["written_beside"]


@contextmanager
def written_beside(target: Path) -> Iterator[Path]:
    """Gives a path of the same name in a new folder beside ``target``; what is written there takes the target's place
    when the block ends, and is removed when it fails.

    The name stays the same because writers choose the format by its ending. A folder takes the place of an empty
    folder only.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield beside / target.name
        os.replace(beside / target.name, target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
