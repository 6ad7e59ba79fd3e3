"""Nothing half-written stays on disk: files and folders are written beside their place and then moved into it.

And lists of files are read, whoever wrote them.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_atomically(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write a file beside ``path``, then rename it into place; missing folders are made.

    Args:
        path: the file to write or to replace.
        content: all of its bytes.

    Returns:
        The path written.

    Raises:
        OSError: the file cannot be written, for example on a full disk; names the file, which is then as it was before.
    """
    path = Path(path)
    beside: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(beside, 0o644)
        os.replace(beside, path)
    except OSError as error:
        raise _named(error, path) from error
    finally:
        if beside is not None:
            Path(beside).unlink(missing_ok=True)
    return path


@contextmanager
def written_beside(target: Path) -> Iterator[Path]:
    """Gives a path of the same name in a new folder beside ``target``; what is written there takes the target's place
    when the block ends, and is removed when it fails.

    The name stays the same because writers choose the format by its ending. A folder takes the place of an empty
    folder only.

    Raises:
        OSError: it cannot be written; names the target, which is then as it was before.
    """
    beside: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        yield beside / target.name
        os.replace(beside / target.name, target)
    except OSError as error:
        raise _named(error, target) from error
    finally:
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)


def is_hidden(path: Path, folder: Path) -> bool:
    """Whether a path, or a folder between it and ``folder``, is hidden, as what is being written is."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def writable_folder(folder: str | os.PathLike[str]) -> Path:
    """A folder, made where it is missing, in which a megabyte could be written a moment ago.

    For libraries that would fail later and less readably.

    Raises:
        OSError: nothing can be written there, for example on a full disk.
    """
    check = write_atomically(Path(folder) / "space_check", bytes(1 << 20))
    check.unlink(missing_ok=True)  # of several processes that check at once, one is first
    return Path(folder)


def read_json(path: Path) -> Any:
    """What a JSON file holds; a mark at its beginning, which editors on Windows write, is passed over.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON; names the file.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: this is not valid JSON ({error}).") from error


def stamp_of(*files: str | os.PathLike[str]) -> list[int]:
    """Numbers that change with the files' content, for whoever keeps what he has read of them: when each was written,
    and its bytes.

    Raises:
        OSError: one of them is not there.
    """
    return [number for file in map(os.stat, files) for number in (file.st_mtime_ns, file.st_size)]


def listed_file(folder: Path, name: str) -> Path:
    """A file by its name in a list, relative to a folder; the list may have been written on Windows."""
    return folder / name.replace("\\", "/")


def _named(error: OSError, path: Path) -> OSError:
    """A full disk is reported without the name of a file."""
    advice = ". Free some space, or choose another folder" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    what = f"{error.strerror or error}: could not write it, what was there before is intact{advice}"
    return OSError(error.errno, what, str(path))
