"""The commands together, and what a user sees of an error.

Exit codes: 0 all went well, 1 something failed and stderr says what, 2 the command line was wrong, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from monai_cobot import __version__
from monai_cobot.cli.adapters import adapters
from monai_cobot.cli.compare import compare
from monai_cobot.cli.doctor import doctor
from monai_cobot.cli.evaluate import evaluate
from monai_cobot.cli.export import export
from monai_cobot.cli.segment import segment
from monai_cobot.cli.serve import serve
from monai_cobot.cli.train import train
from monai_cobot.errors import print_what_can_be_shown

__all__ = ["app", "main"]

app = typer.Typer(
    name="cobot",
    help="Fine-tune the Segment Anything Model on medical scans with adapters, and segment with them.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="markdown",
)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(train)
app.command()(compare)
app.command()(segment)
app.command()(evaluate)
app.add_typer(adapters, name="adapters")
app.command()(export)
app.command()(serve)
app.command()(doctor)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"cobot {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Show the version."),
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``cobot``; ends the process with its exit code.

    Args:
        arguments: the command line without the program's name; None for that of this process.
    """
    print_what_can_be_shown()
    try:
        app(args=None if arguments is None else list(arguments), prog_name="cobot")
    except (ValueError, TypeError, OSError) as error:  # errors that were written for a user to read
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)
