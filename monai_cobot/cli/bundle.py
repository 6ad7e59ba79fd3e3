"""Where the bundle lies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["BUNDLE", "BundleOption", "train_config"]

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "cobot_sam"
BundleOption = Annotated[Path, typer.Option(help="Folder of the bundle cobot_sam.")]


def train_config(bundle: Path) -> Path:
    """The bundle's configuration of training.

    Raises:
        FileNotFoundError: it is not there.
    """
    config = bundle / "configs" / "train.json"
    if not config.is_file():
        raise FileNotFoundError(
            f"{config}: the bundle is not there. It comes with the project's repository; name its folder "
            "bundles/cobot_sam with --bundle."
        )
    return config
