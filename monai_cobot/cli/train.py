"""``cobot train``: a friendly door to the bundle."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from monai_cobot.cli.bundle import BUNDLE, BundleOption, train_config

__all__ = ["train"]


def train(
    context: typer.Context,
    dataset: Annotated[
        str | None,
        typer.Option(help="Recipe: phantom, adome, splen, momo, brast, segrap, or msd for a folder of your own."),
    ] = None,
    dataset_dir: Annotated[Path | None, typer.Option(help="Its folder; the phantom is generated.")] = None,
    label: Annotated[str | None, typer.Option(help="Name or value of a label; without, all.")] = None,
    method: Annotated[str | None, typer.Option(help="lora, adaptformer, ...; without, the bundle's default.")] = None,
    orchestrate: Annotated[bool | None, typer.Option(help="COBOT over the method's bottlenecks.")] = None,
    sam_variant: Annotated[str | None, typer.Option(help="vit_mini, vit_b, vit_l or vit_h.")] = None,
    sam_checkpoint: Annotated[Path | None, typer.Option(help="SAM's weights; vit_mini comes with its own.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the slices.")] = None,
    output_dir: Annotated[
        Path | None, typer.Option("--output-dir", "-o", help="Folder of the adapter, curves and pictures.")
    ] = None,
    resume: Annotated[bool | None, typer.Option("--resume", help="Go on with a training that was interrupted.")] = None,
    bundle: BundleOption = BUNDLE,
) -> None:
    """Train an adapter. Any other option of the bundle's train.json can follow, such as `--learning_rate 1e-4`.

    This runs `python -m monai.bundle run --config_file train.json` with these options; what is not given is as the
    bundle has it.
    """
    config = train_config(bundle)
    options = {
        "dataset": dataset,
        "dataset_dir": dataset_dir,
        "label": label,
        "method": method,
        "orchestrate": orchestrate,
        "sam_variant": sam_variant,
        "sam_checkpoint": sam_checkpoint,
        "epochs": epochs,
        "output_dir": output_dir,
        "resume": resume,
        "bundle_root": bundle,
    }
    given = [part for name, value in options.items() if value is not None for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(config), *given, *context.args]
    _become(command)


def _become(command: list[str]) -> NoReturn:
    """Run a program in the place of this one, so that Ctrl-C is its own, and it can report before it ends."""
    sys.stdout.flush()
    if sys.platform != "win32":
        os.execv(command[0], command)
    process = subprocess.Popen(command)
    while True:
        with suppress(KeyboardInterrupt):  # the console has told it too
            raise typer.Exit(process.wait())
