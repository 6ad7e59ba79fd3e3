"""``cobot doctor``: whether everything is there, and what to do where it is not."""

from __future__ import annotations

import importlib
import os
import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version
from pathlib import Path
from typing import Annotated

import typer
from packaging.requirements import Requirement
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from monai_cobot.label.server import INSTALL

__all__ = ["doctor"]

_OPTIONAL = {
    "torchvision": "not needed",
    "onnx": "cobot export: extra export",
    "onnxscript": "cobot export: extra export",
    "onnxruntime": "cobot export: extra export",
    "highdicom": "DICOM SEG: extra dicom",
    "openvino": "faster on a CPU: extra openvino",
    "platformdirs": "with openvino: extra openvino",
    "monailabel": f"cobot serve: {INSTALL}",
    "pydicom-seg": "cobot serve: as monailabel",
}

Row = tuple[str, str, str]
"""What is looked at, what was found, and what to do about it."""


def doctor(
    sam_checkpoint: Annotated[Path | None, typer.Option(help="A checkpoint to look into.")] = None,
) -> None:
    """Show versions, devices and weights. The exit code is 1 where there is something to do: what is needed is missing,
    or what is there does not fit."""
    table = Table("", "", "what to do")
    rows = [
        ("Python", platform.python_version(), ""),
        *_packages(),
        *_where_it_imports("CPU", _cpu),
        *_where_it_imports("GPU", _gpus),
        _torchvision(),
        *_where_it_imports("weights", _packaged_weights),
    ]
    if sam_checkpoint is not None:
        rows += _where_it_imports(sam_checkpoint.name, lambda: _checkpoint(sam_checkpoint))
    for row in rows:
        table.add_row(*map(escape, row))
    Console().print(table)
    if any(advice for *_, advice in rows):
        raise typer.Exit(1)


def _packages() -> list[Row]:
    """Each package that this one asks for, in the version that it asks for; then what some commands need."""
    asked = [Requirement(line) for line in requires("monai-cobot") or []]
    needed = [item for item in asked if item.marker is None or item.marker.evaluate({"extra": ""})]
    of_extras = {item.name: item for item in asked if item not in needed}
    rows = [("monai-cobot", version("monai-cobot"), "")]
    for item in needed:
        found = _version(item.name)
        fits = found is not None and item.specifier.contains(found, prereleases=True)
        rows.append((item.name, found or "missing", "" if fits else f'pip install "{_plain(item)}"'))
    for name, use in _OPTIONAL.items():
        found = _version(name)
        if found is None:
            rows.append((name, f"not installed ({use})", ""))
        elif name in of_extras and not of_extras[name].specifier.contains(found, prereleases=True):
            rows.append((name, f"{found} does not fit ({use})", f'pip install "{_plain(of_extras[name])}"'))
        else:
            rows.append((name, found, ""))
    return rows


def _plain(requirement: Requirement) -> str:
    return f"{requirement.name}{requirement.specifier}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _where_it_imports(name: str, look: Callable[[], list[Row]]) -> list[Row]:
    """The rows, or one that says which package cannot be imported."""
    try:
        return look()
    except (ImportError, OSError) as error:  # OSError: a library that a package loads is missing
        reason = str(error).partition("\n")[0]
        return [(name, f"cannot be looked at: {reason}", _advice(getattr(error, "name", None)))]


def _advice(module: str | None) -> str:
    """How to get a module that cannot be imported."""
    if module is None:
        return "install monai_cobot again"
    top = module.partition(".")[0]
    package = packages_distributions().get(top, [top])[0]
    found = _version(package)
    if found is None:
        return f"pip install {package}; the rows above say which version"
    return f'pip install --force-reinstall --no-deps "{package}=={found}"'


def _cpu() -> list[Row]:
    import torch

    from monai_cobot.networks.precision import has_fast_bfloat16

    cpu = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return [("CPU", cpu + (", bfloat16" if has_fast_bfloat16(torch.device("cpu")) else ""), "")]


def _gpus() -> list[Row]:
    import torch

    rows = []
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        rows.append((f"cuda:{number}", f"{about.name}, {about.total_memory / 1e9:.0f} GB", ""))
    if not torch.cuda.is_available():
        build = torch.version.cuda or "without CUDA"
        rows.append(("GPU", f"none is usable; this PyTorch is built {build}", ""))
    return rows


def _torchvision() -> Row:
    try:
        importlib.import_module("torchvision")
    except ImportError:
        return "torchvision imports", "no; it is not needed", ""
    except (RuntimeError, OSError) as error:  # a build for another torch
        reason = str(error).splitlines()[0]
        return "torchvision imports", f"no ({reason}); monai_cobot works without it", ""
    return "torchvision imports", "yes", ""


def _packaged_weights() -> list[Row]:
    from monai_cobot.networks import base_weights_sha256, build_sam
    from monai_cobot.networks.sam import PACKAGED_VARIANT, WEIGHTS_FOLDER

    if not (WEIGHTS_FOLDER / f"{PACKAGED_VARIANT}.safetensors").is_file():
        return [(PACKAGED_VARIANT, "its weights are missing", "install monai_cobot again")]
    return [(PACKAGED_VARIANT, f"weights {base_weights_sha256(build_sam(PACKAGED_VARIANT))[:12]}", "")]


def _checkpoint(path: Path) -> list[Row]:
    from monai_cobot.networks import base_weights_sha256, build_sam
    from monai_cobot.networks.checkpoint import checkpoint_variant

    try:
        variant = checkpoint_variant(path)
        return [(path.name, f"{variant}, weights {base_weights_sha256(build_sam(variant, path))[:12]}", "")]
    except (ValueError, OSError) as error:
        return [(path.name, "cannot be used", str(error))]
