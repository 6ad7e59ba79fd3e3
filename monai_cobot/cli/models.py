"""The model that a command line names. What is heavy is imported when it is needed, so that ``--help`` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from monai_cobot.inferers import AdaptedSam
    from monai_cobot.networks._segment_anything import Sam

__all__ = [
    "AdapterOption",
    "BackendOption",
    "CheckpointOption",
    "DeviceOption",
    "ImageSizeOption",
    "PrecisionOption",
    "VariantOption",
    "build_for",
    "open_model",
]

AdapterOption = Annotated[Path | None, typer.Option("--adapter", help="Adapter folder; without, SAM as it is.")]
VariantOption = Annotated[
    str | None,
    typer.Option("--sam-variant", help="vit_mini, vit_b, vit_l or vit_h; without, the adapter's, or vit_mini."),
]
CheckpointOption = Annotated[
    Path | None, typer.Option("--sam-checkpoint", help="SAM's weights; without, those that come with vit_mini.")
]
ImageSizeOption = Annotated[
    int | None, typer.Option("--image-size", help="SAM's input size in pixels; without, the adapter's or SAM's own.")
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, cuda:1, ...; without, a GPU if there is one.")
]
PrecisionOption = Annotated[
    str,
    typer.Option(
        "--precision", help="Type of the products: float32, bfloat16, or auto, bfloat16 where the device has it."
    ),
]
BackendOption = Annotated[
    str,
    typer.Option(
        "--backend", help="What runs the image encoder: eager (PyTorch), compile, openvino, or auto, the fastest here."
    ),
]


def build_for(adapter: Path | None, variant: str | None, checkpoint: Path | None, image_size: int | None) -> Sam:
    """The SAM that an adapter belongs to, or the one named.

    Raises:
        typer.BadParameter: the variant or image size is another than the adapter was trained with.
        ValueError, OSError: it cannot be built; random weights are refused, since nobody wants masks of them.
    """
    from monai_cobot.networks import build_sam
    from monai_cobot.networks.sam import PACKAGED_VARIANT
    from monai_cobot.peft import read_adapter_config

    if adapter is not None:
        trained = read_adapter_config(adapter)
        _check_as_trained("--sam-variant", variant, trained.variant)
        _check_as_trained("--image-size", image_size, trained.image_size)
        variant, image_size = trained.variant, trained.image_size
    variant = variant or PACKAGED_VARIANT
    if checkpoint is None and variant != PACKAGED_VARIANT:
        raise ValueError(f"{variant} has no weights in this package: name their file with --sam-checkpoint.")
    return build_sam(variant, checkpoint, image_size)


def _check_as_trained(option: str, value: str | int | None, trained: str | int) -> None:
    if value not in (None, trained):
        raise typer.BadParameter(
            f"the adapter was trained with {trained}, not {value}: leave {option} out.", param_hint=option
        )


def open_model(
    adapter: Path | None,
    variant: str | None,
    checkpoint: Path | None,
    image_size: int | None,
    device: str | None,
    precision: str = "auto",
    backend: str = "eager",
) -> AdaptedSam:
    """What segments, on its device.

    Raises:
        typer.BadParameter: as :func:`build_for`.
        ValueError, OSError, BackendError: the SAM, the adapter or the backend cannot be used; says why.
    """
    from monai_cobot.inferers import AdapterShelf, default_device
    from monai_cobot.options import check_options

    device = device or default_device()
    check_options(device=device)
    shelf = AdapterShelf(build_for(adapter, variant, checkpoint, image_size), device, precision, backend)
    return shelf.base if adapter is None else shelf.load(adapter)
