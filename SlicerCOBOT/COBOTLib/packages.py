"""The Python packages that segmenting in process needs, installed after the user agreed."""

from __future__ import annotations

import importlib.metadata
from typing import Any

# torch is not among them: the PyTorch extension installs the build that fits the computer.
REQUIREMENTS = ("monai-cobot",)


def missing() -> list[str]:
    """What is not installed, torch first. Nothing is imported."""
    names = ["torch", *REQUIREMENTS]
    return [name for name in names if not _is_installed(name)]


def install(torch_logic: Any, pip_install: Any) -> None:
    """Install what is missing. To be called after the user agreed.

    Args:
        torch_logic: the logic of the PyTorch extension's module, with ``installTorch``.
        pip_install: ``slicer.util.pip_install``.

    Raises:
        RuntimeError: it could not be installed, or the user declined torch; says what to do.
    """
    needed = missing()
    if "torch" in needed:
        if torch_logic is None:
            raise RuntimeError(
                'The extension "PyTorch" is missing. Install it in the Extensions Manager, and restart Slicer.'
            )
        if torch_logic.installTorch(askConfirmation=True) is None:
            raise RuntimeError('PyTorch was not installed. Install it in the module "PyTorch".')
    others = [name for name in needed if name != "torch"]
    if others:
        # pinned, so that pip keeps the build that the PyTorch extension chose
        pip_install([*others, f"torch=={importlib.metadata.version('torch')}"])


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
