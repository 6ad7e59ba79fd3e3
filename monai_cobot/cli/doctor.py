"""``cobot doctor``: whether everything is there, and what to do where it is not."""

from __future__ import annotations

import importlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from monai_cobot.label.server import INSTALL

__all__ = ["doctor"]

_PACKAGES = ("torch", "monai", "pytorch-ignite", "segment-anything", "nibabel", "SimpleITK", "safetensors", "numpy")
_OPTIONAL = {
    "torchvision": "not needed",
    "onnxruntime": "cobot export: extra export",
    "highdicom": "DICOM SEG: extra dicom",
    "openvino": "faster on a CPU: extra openvino",
    "monailabel": f"cobot serve: {INSTALL}",
    "pydicom-seg": "cobot serve: as monailabel",
}


def doctor(
    sam_checkpoint: Annotated[Path | None, typer.Option(help="A checkpoint to look into.")] = None,
) -> None:
    """Show versions, devices and weights. The exit code is 1 where something is missing that is needed."""
    table = Table("", "", "what to do")
    rows = [
        ("Python", platform.python_version(), ""),
        *_packages(),
        *_devices(),
        _torchvision(),
        *_weights(sam_checkpoint),
    ]
    for row in rows:
        table.add_row(*map(escape, row))
    Console().print(table)
    if any(advice for *_, advice in rows):
        raise typer.Exit(1)


def _packages() -> list[tuple[str, str, str]]:
    needed = [(name, _version(name)) for name in ("monai-cobot", *_PACKAGES)]
    optional = [(name, _version(name) or f"not installed ({use})", "") for name, use in _OPTIONAL.items()]
    return [(name, found or "missing", "" if found else f"pip install {name}") for name, found in needed] + optional


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _devices() -> list[tuple[str, str, str]]:
    import torch

    from monai_cobot.networks.precision import has_fast_bfloat16

    cpu = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    rows = [("CPU", cpu + (", bfloat16" if has_fast_bfloat16(torch.device("cpu")) else ""), "")]
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        rows.append((f"cuda:{number}", f"{about.name}, {about.total_memory / 1e9:.0f} GB", ""))
    if not torch.cuda.is_available():
        build = torch.version.cuda or "without CUDA"
        rows.append(("GPU", f"none is usable; this PyTorch is built {build}", ""))
    return rows


def _torchvision() -> tuple[str, str, str]:
    try:
        importlib.import_module("torchvision")
    except ImportError:
        return "torchvision imports", "no; it is not needed", ""
    except (RuntimeError, OSError) as error:  # a build for another torch
        reason = str(error).splitlines()[0]
        return "torchvision imports", f"no ({reason}); monai_cobot works without it", ""
    return "torchvision imports", "yes", ""


def _weights(checkpoint: Path | None) -> list[tuple[str, str, str]]:
    from monai_cobot.networks import base_weights_sha256, build_sam
    from monai_cobot.networks.checkpoint import checkpoint_variant
    from monai_cobot.networks.sam import PACKAGED_VARIANT, WEIGHTS_FOLDER

    rows = []
    if (WEIGHTS_FOLDER / f"{PACKAGED_VARIANT}.safetensors").is_file():
        rows.append((PACKAGED_VARIANT, f"weights {base_weights_sha256(build_sam(PACKAGED_VARIANT))[:12]}", ""))
    else:
        rows.append((PACKAGED_VARIANT, "its weights are missing", "install monai_cobot again"))
    if checkpoint is not None:
        try:
            variant = checkpoint_variant(checkpoint)
            rows.append(
                (checkpoint.name, f"{variant}, weights {base_weights_sha256(build_sam(variant, checkpoint))[:12]}", "")
            )
        except (ValueError, OSError) as error:
            rows.append((checkpoint.name, "cannot be used", str(error)))
    return rows
