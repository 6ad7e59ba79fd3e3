"""The versions of an adapter: what each training gave, and which of them is in use.

An adapter folder holds the files of the version in use, as any adapter folder does. Beside them, ``versions/1``,
``versions/2``, ... are adapter folders of all that it ever was.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from monai_cobot.files import write_atomically, written_beside
from monai_cobot.peft import AdapterError, read_adapter_config
from monai_cobot.peft.io import CONFIG_FILE, WEIGHTS_FILE

__all__ = ["list_versions", "publish", "roll_back", "version_in_use"]

_FOLDER = "versions"
_FILES = (WEIGHTS_FILE, CONFIG_FILE)  # in this order: the weights hold a copy of their configuration


def list_versions(folder: Path) -> list[int]:
    """The versions of an adapter, rising; none where it was never trained on a server."""
    return sorted(int(path.name) for path in (folder / _FOLDER).glob("[0-9]*") if path.name.isdigit())


def version_in_use(folder: Path) -> int | None:
    """The version whose files an adapter folder holds; None where it is none of its versions.

    Raises:
        AdapterError: the folder holds no complete adapter.
    """
    weights = read_adapter_config(folder).weights_sha256
    for version in reversed(list_versions(folder)):
        if read_adapter_config(_path(folder, version)).weights_sha256 == weights:
            return version
    return None


def publish(folder: Path, trained: Path, reports: Iterable[Path] = ()) -> int:
    """Put a trained adapter into use as the next version of an adapter folder.

    Args:
        folder: of the adapter; it is made where it does not exist. What it holds stays as a version.
        trained: folder of the new adapter; it is copied.
        reports: files to keep beside the new version, such as its curves.

    Returns:
        The new version.

    Raises:
        AdapterError: there is no complete adapter in ``trained``.
        OSError: it cannot be written; the adapter in use is as it was before.
    """
    read_adapter_config(trained)
    if (folder / CONFIG_FILE).is_file() and version_in_use(folder) is None:
        _keep(folder, folder)
    version = _keep(folder, trained, reports)
    _use(folder, version)
    return version


def roll_back(folder: Path, version: int | None = None) -> int:
    """Put a version of an adapter into use again. A server that runs takes it for the next request.

    Args:
        folder: of the adapter.
        version: which one; None for the one before that in use.

    Returns:
        The version in use now.

    Raises:
        AdapterError: there is no such version, or none before.
        OSError: it cannot be written; the adapter in use is as it was before.
    """
    known = list_versions(folder)
    shown = ", ".join(map(str, known)) or "none"
    if version is None:
        now = version_in_use(folder)
        before = [number for number in known if now is None or number < now]
        if not before:
            raise AdapterError(f"{folder}: there is no version before that in use; versions are {shown}.")
        version = before[-1]
    elif version not in known:
        raise AdapterError(f"{folder}: there is no version {version}; versions are {shown}.")
    _use(folder, version)
    return version


def _path(folder: Path, version: int) -> Path:
    return folder / _FOLDER / str(version)


def _keep(folder: Path, adapter: Path, reports: Iterable[Path] = ()) -> int:
    """Copy an adapter to the next version."""
    version = max(list_versions(folder), default=0) + 1
    with written_beside(_path(folder, version)) as beside:
        beside.mkdir()
        for file in (*(adapter / name for name in _FILES), *reports):
            shutil.copyfile(file, beside / file.name)
    return version


def _use(folder: Path, version: int) -> None:
    read_adapter_config(_path(folder, version))
    for name in _FILES:
        write_atomically(folder / name, (_path(folder, version) / name).read_bytes())
