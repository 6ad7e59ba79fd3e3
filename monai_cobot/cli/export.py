"""``cobot export``: the network for other runtimes."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from monai_cobot.cli.models import AdapterOption, CheckpointOption, ImageSizeOption, VariantOption, open_model

__all__ = ["export"]


class ExportFormat(str, Enum):
    """What to write."""

    onnx = "onnx"
    torchscript = "torchscript"


def export(
    output: Annotated[Path, typer.Argument(help="Folder of encoder and decoder.")],
    export_format: Annotated[ExportFormat, typer.Option("--format", help="onnx or torchscript.")] = ExportFormat.onnx,
    adapter: AdapterOption = None,
    sam_variant: VariantOption = None,
    sam_checkpoint: CheckpointOption = None,
    image_size: ImageSizeOption = None,
) -> None:
    """Write the image encoder and the mask decoder, with the adapter in them, if they compute what PyTorch does.

    Images are (1, 3, size, size) in [0, 1] in SAM's frame, boxes (1, N, 4) in its pixels, half-open. The decoder takes
    boxes only, no points.
    """
    from monai_cobot.networks.exporting import export_onnx, export_torchscript
    from monai_cobot.peft import read_adapter_config

    if adapter is not None and read_adapter_config(adapter).classes is not None:
        raise typer.BadParameter(
            f"{adapter} segments classes without prompts, and the decoder that is written here takes boxes. Export it "
            "whole with the bundle: save_network, then ckpt_export, as bundles/cobot_sam/docs/README.md shows.",
            param_hint="--adapter",
        )
    network = open_model(adapter, sam_variant, sam_checkpoint, image_size, "cpu", "float32").network
    write = export_onnx if export_format is ExportFormat.onnx else export_torchscript
    for name, difference in write(network, output).items():
        print(f"{output / name}: differs from PyTorch by {difference:.1e} of the largest value")
