"""Writing a report so that nothing half-written stays."""

import contextlib
import os
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write ``content`` beside ``path``, then rename it into place; missing folders are made.

    Returns:
        The path written.

    Raises:
        OSError: if the file cannot be written, for example on a full disk; ``path`` is then as it was before.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(content)
        os.replace(beside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        # A full disk is reported without a file's name.
        raise OSError(error.errno, f"cannot write the report ({error.strerror})", str(path)) from error
    return path
