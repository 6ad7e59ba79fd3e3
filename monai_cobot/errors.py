"""Errors as a user should meet them."""

from __future__ import annotations

import io
import sys
import traceback
import warnings
from pathlib import Path
from types import TracebackType

from monai_cobot.files import write_atomically

TRACEBACK_FILE = "traceback.txt"


def root_cause(error: BaseException) -> BaseException:
    """What went wrong, before MONAI said what it could not do therefore.

    MONAI's own errors are passed over where they have a cause. An error from elsewhere that has one, such as ours with
    that of a library, stays: it was written to explain its cause.
    """
    while error.__cause__ is not None and _raised_in_monai(error):
        error = error.__cause__
    return error


def describe_cause(error: BaseException) -> str:
    """What went wrong, in a line for a user; errors that were not written for one are named by their kind."""
    cause = root_cause(error)
    return str(cause) if isinstance(cause, (ValueError, OSError)) else f"{type(cause).__name__}: {cause}"


def _raised_in_monai(error: BaseException) -> bool:
    frames = list(traceback.walk_tb(error.__traceback__))
    return bool(frames) and frames[-1][0].f_globals.get("__name__", "").split(".")[0] == "monai"


def print_what_can_be_shown() -> None:
    """Let a character that the terminal, or a file in its place, cannot show become a question mark, not an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def explain_errors(folder: str | Path) -> bool:
    """Let ``python -m monai.bundle`` end with the root cause of an error, and put the traceback into a file.

    MONAI's configuration parser wraps an error into others, one for each level of references, so that the reason stands
    far above what a user sees last. Warnings are shown in one line. A program that uses a bundle as a library is left
    alone.

    Args:
        folder: where ``traceback.txt`` is written.

    Returns:
        Whether this process is ``python -m monai.bundle``.
    """
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None or spec.name != "monai.bundle.__main__":
        return False
    print_what_can_be_shown()
    path = Path(str(folder)) / TRACEBACK_FILE  # Fire makes a number of a folder's name such as 2024

    def explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
            return
        try:
            where = (
                f"The traceback is in {write_atomically(path, ''.join(traceback.format_exception(error)).encode())}."
            )
        except OSError as failure:
            where = f"The traceback could not be saved ({failure})."
        print(f"\nError: {describe_cause(error)}\n{where}", file=sys.stderr)

    sys.excepthook = explain
    # without the line of MONAI's code that happened to call what warns
    warnings.formatwarning = lambda message, *_, **__: f"Warning: {message}\n"
    return True
