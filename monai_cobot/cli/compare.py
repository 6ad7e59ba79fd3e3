"""``cobot compare``: methods x data sets x seeds from one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from monai_cobot.cli.bundle import BUNDLE, BundleOption, train_config

__all__ = ["compare"]


def compare(
    study: Annotated[Path, typer.Argument(help="YAML or JSON file; docs/compare.md describes it.")],
    output_dir: Annotated[
        Path | None, typer.Option("--output-dir", "-o", help="Folder of the runs and results; without, runs/<name>.")
    ] = None,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Run nothing; write tables and pictures of what is done.")
    ] = False,
    bundle: BundleOption = BUNDLE,
) -> None:
    """Train every method of a study on every data set with every seed, and compare them on the same test patients.

    Runs that are done are not done again, and what was interrupted goes on. Several of these commands, given at the
    same time, share the runs. Tables, pictures and all scores lie in the output folder at the end.
    """
    from monai_cobot.study import make_plan, read_study, run_study, write_report

    config = train_config(bundle)
    folder = output_dir or Path("runs") / study.stem
    plan = make_plan(read_study(study, config), folder, config)
    not_done, interrupted = {}, False
    try:
        if not report_only:
            not_done = run_study(plan)
    except KeyboardInterrupt:
        interrupted = True
    report, *others = write_report(plan, not_done)
    print(f"\n{report.read_text(encoding='utf-8')}")
    print("\n".join(str(path) for path in (report, *others)))
    if interrupted:
        print("Stopped. The same command goes on.")
        raise typer.Exit(130)
    if not_done:
        typer.echo(f"\n{len(not_done)} runs were not done:", err=True)
        for run, reason in not_done.items():
            typer.echo(f"  {run}: {reason}", err=True)
        raise typer.Exit(1)
