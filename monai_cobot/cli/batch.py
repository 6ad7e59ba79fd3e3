"""Many cases, of which one that fails does not stop the others."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import typer
from rich.console import Console
from rich.progress import Progress

from monai_cobot.errors import describe_cause

__all__ = ["progress_bars", "run_batch"]

Case = TypeVar("Case")


def progress_bars() -> Progress:
    """Bars on stderr, gone at the end; what is printed meanwhile still goes to stdout where that is a file or pipe."""
    return Progress(console=Console(file=sys.stderr), transient=True, redirect_stdout=sys.stdout.isatty())


def run_batch(cases: Sequence[Case], work: Callable[[Case], None], name_of: Callable[[Case], object]) -> None:
    """Work on each case; say at the end what failed. No kind of error ends the others, be it a lack of memory.

    Raises:
        typer.Exit: with 1, where a case failed.
    """
    failed: list[tuple[object, str]] = []
    for case in cases:
        try:
            work(case)
        except Exception as error:  # noqa: PERF203 - one case at a time is the point
            failed.append((name_of(case), describe_cause(error)))
            print(f"Failed: {name_of(case)}", file=sys.stderr)
    if failed:
        print(f"\n{len(failed)} of {len(cases)} failed:", file=sys.stderr)
        for name, reason in failed:
            print(f"  {name}: {reason}", file=sys.stderr)
        raise typer.Exit(1)
