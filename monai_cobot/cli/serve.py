"""``cobot serve``: adapters on a MONAI Label server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from monai_cobot.cli.models import (
    BackendOption,
    CheckpointOption,
    DeviceOption,
    ImageSizeOption,
    PrecisionOption,
    VariantOption,
)

__all__ = ["serve"]


def serve(
    studies: Annotated[
        str,
        typer.Option(
            metavar="PATH|URL",
            help="Folder of the images; labels are kept in it. It is made where it is missing. Or the http address of "
            "a DICOM server (DICOMweb).",
        ),
    ],
    adapters: Annotated[
        Path | None, typer.Option(help="Folder of adapter folders, each a model; without, adapters in the studies.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. The server asks for no login: 0.0.0.0 opens it to the network.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    sam_variant: VariantOption = None,
    sam_checkpoint: CheckpointOption = None,
    image_size: ImageSizeOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = "auto",
    backend: BackendOption = "auto",
    bundle: Annotated[Path | None, typer.Option(help="Folder of the bundle cobot_sam, for training.")] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="Address of a web page that may use the server, such as an OHIF elsewhere.")
    ] = None,
    cache_dir: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps image embeddings when the server ends; without, memory alone does."),
    ] = None,
    cache_disk_gb: Annotated[float, typer.Option(help="The most that is kept in --cache-dir, in GB.")] = 10.0,
    look_ahead: Annotated[
        bool, typer.Option(help="Compute neighbouring slices in the background, while the user looks at one.")
    ] = True,
) -> None:
    """Start a MONAI Label server: segmentation with boxes and points, labels, training, what to label next.

    3D Slicer (the module COBOT, or MONAI Label's own) and OHIF connect to it.
    """
    from monai_cobot.cli.bundle import train_config
    from monai_cobot.label.server import serve as start

    settings = {
        "adapters": adapters,
        "sam_variant": sam_variant,
        "sam_checkpoint": sam_checkpoint,
        "image_size": image_size,
        "device": device,
        "precision": precision,
        "backend": backend,
        "train_config": None if bundle is None else train_config(bundle).resolve(),
        "allow_origins": ",".join(allow_origin) if allow_origin else None,
        "cache_dir": cache_dir,
        "cache_disk_gb": cache_disk_gb,
        "look_ahead": look_ahead,
    }
    start(studies, settings, host, port)
