"""The Python packages that segmenting in process needs, installed after the user agreed."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

COBOT_VERSION = "0.1.0"
"""The version of monai-cobot that this module is made for."""

_CHECKOUT = Path(__file__).resolve().parents[2]


def missing() -> list[str]:
    """What is not installed, or in another version than is needed, torch first. Nothing is imported."""
    needed = [] if _installed("torch") else ["torch"]
    return needed if _installed("monai-cobot") == COBOT_VERSION else [*needed, f"monai-cobot {COBOT_VERSION}"]


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
    if _installed("monai-cobot") != COBOT_VERSION:
        # torch is pinned, so that pip keeps the build that the PyTorch extension chose for the computer
        pip_install([_source(_CHECKOUT), f"torch=={_installed('torch')}"])


def _source(checkout: Path) -> str:
    """What pip installs the package from: the checkout that the module runs in, whose version is the same, if any."""
    file = checkout / "pyproject.toml"
    if file.is_file() and 'name = "monai-cobot"' in file.read_text(encoding="utf-8"):
        return str(checkout)
    return f"monai-cobot=={COBOT_VERSION}"


def _installed(name: str) -> str | None:
    """The version of a package; None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
