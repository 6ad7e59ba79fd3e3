"""Starting MONAI Label's server with our app."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import monai_cobot

__all__ = ["APP", "INSTALL", "Settings", "accept_pydicom_3", "is_address", "is_this_computer", "serve"]

APP = Path(__file__).with_name("app")
"""The app's folder, for ``python -m monailabel.main start_server --app``."""

INSTALL = 'pip install "monai-cobot[label]" && pip install --no-deps monailabel==0.8.5 pydicom-seg==0.4.1'
"""How MONAI Label is installed beside this package. Its own requirements ask for several gigabytes, most of them for
what is not used here, and pydicom-seg's for versions of numpy and jsonschema that are out of use; both work without."""

_WORK = ".cobot"
_TRAIN_CONFIG = Path(monai_cobot.__file__).resolve().parents[1] / "bundles" / "cobot_sam" / "configs" / "train.json"


@dataclass(frozen=True)
class Settings:
    """What can be set where the server is started.

    Attributes:
        adapters: folder of adapter folders; usually ``adapters`` in the studies.
        work: folder of what the server keeps for itself, such as trainings; usually ``.cobot`` in the studies.
        sam_variant, sam_checkpoint, image_size, device, precision, backend: as in
            :class:`~monai_cobot.label.models.Models`.
        train_config: the bundle's ``train.json``.
        cache_gb: memory for embeddings, in units of 10^9 bytes.
        cache_dir: folder in which embeddings are kept as well, so that a server that is started again need not compute
            them; None for memory alone.
        cache_disk_gb: the most that is kept there, in units of 10^9 bytes.
        look_ahead: whether neighbouring slices are encoded in the background.
        host: the address that the server listens on. Requests that come in by another than this computer's own are
            refused unless it is said here, since MONAI Label's own command listens on all without being asked.
        allow_origins: addresses of web pages that may ask the server, besides its own pages; MONAI Label allows all,
            and does not start where its own setting for it is used.
    """

    adapters: Path
    work: Path
    sam_variant: str = "vit_mini"
    sam_checkpoint: Path | None = None
    image_size: int | None = None
    device: str | None = None
    precision: str = "auto"
    backend: str = "auto"
    train_config: Path = _TRAIN_CONFIG
    cache_gb: float = 2.0
    cache_dir: Path | None = None
    cache_disk_gb: float = 10.0
    look_ahead: bool = True
    host: str = "127.0.0.1"
    allow_origins: tuple[str, ...] = ()

    @classmethod
    def read(cls, conf: Mapping[str, str], studies: str, app_dir: str) -> Settings:
        """Read what was given on the command line.

        Args:
            conf: name -> value.
            studies: folder of the images; where it is the address of a DICOM server, the app's folder is used.
            app_dir: the app's folder.

        Raises:
            ValueError: a name is unknown, or a value cannot be used.
        """
        known = [field.name for field in fields(cls)]
        unknown = [name for name in conf if name not in known]
        if unknown:
            raise ValueError(f"there is no setting {unknown[0]!r}; there are {', '.join(known)}.")
        root = Path(app_dir if studies.startswith(("http://", "https://")) else studies).absolute()
        read: dict[str, Callable[[str], Any]] = {"image_size": int, "look_ahead": _truth, "allow_origins": _origins}
        read |= dict.fromkeys(("cache_gb", "cache_disk_gb"), float)
        read |= dict.fromkeys(("device", "precision", "backend", "sam_variant", "host"), str)
        values: dict[str, Any] = {"adapters": root / "adapters", "work": root / _WORK}
        values |= {name: _converted(name, text, read.get(name, _absolute)) for name, text in conf.items()}
        return cls(**values)


def serve(studies: str | Path, settings: Mapping[str, object], host: str = "127.0.0.1", port: int = 8000) -> None:
    """Start MONAI Label's server in this process; returns when it is stopped.

    Args:
        studies: folder of the images, which is made where it does not exist, or the address of a DICOM server.
        settings: name -> value, of :class:`Settings`; None for the usual ones.
        host: address to listen on; others than this computer reach it where it is not 127.0.0.1.
        port: to listen on.

    Raises:
        ValueError: MONAI Label is not installed, or a setting cannot be used, such as a device that is not there.
        OSError: the studies cannot be written, or the checkpoint cannot be read.
    """
    conf = {name: str(value) for name, value in settings.items() if value is not None} | {"host": host}
    if importlib.util.find_spec("monailabel") is None:
        raise ValueError(f"MONAI Label is not installed. Install it with\n  {INSTALL}")
    root = str(studies)
    if not root.startswith(("http://", "https://")):
        root = os.path.realpath(root)  # as MONAI Label does
    read = Settings.read(conf, root, os.getcwd())
    conf |= {"adapters": str(read.adapters), "work": str(read.work)}
    app = read.work.resolve() / "app"  # MONAI Label writes its log into the app's folder
    (app / "bin").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(APP / "main.py", app / "main.py")
    os.environ.setdefault("MONAI_LABEL_SESSION_PATH", str(read.work.resolve() / "sessions"))
    if not is_this_computer(host):
        print(f"Anyone who reaches {host}:{port} can read and change these studies.", file=sys.stderr)
    accept_pydicom_3()
    arguments = ["--app", str(app), "--studies", root, "--host", host, "--port", str(port)]
    arguments += [part for name, value in conf.items() for part in ("--conf", name, value)]
    sys.argv = ["monailabel", "start_server", *arguments]
    try:
        from monailabel.interfaces.utils.app import app_instance
        from monailabel.main import Main
    except ImportError as error:
        raise ValueError(f"MONAI Label cannot be used ({error}). Install it with\n  {INSTALL}") from error
    # The server takes this one. Where it cannot be made, there is no server that would fail at the first request.
    app_instance(str(app), root, conf)
    Main().run()


def accept_pydicom_3() -> None:
    """Let pydicom-seg 0.4.1, which MONAI Label imports, find a name of pydicom 2 where pydicom 3 has it.

    MONAI Label does not start with pydicom 3 otherwise (its issue 1841).
    """
    import pydicom.uid

    name = "pydicom._storage_sopclass_uids"
    if importlib.util.find_spec(name) is None:
        sys.modules[name] = pydicom.uid


def is_address(name: str) -> bool:
    """Whether it is the address of a computer, and not a name."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_this_computer(name: str) -> bool:
    """Whether a name or an address reaches this computer from itself alone."""
    if not is_address(name):
        return name.lower() == "localhost"
    address = ipaddress.ip_address(name)
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _converted(name: str, text: str, read: Callable[[str], Any]) -> Any:
    try:
        return read(text)
    except ValueError:
        raise ValueError(f"the setting {name} is {text!r}, which cannot be used.") from None


def _absolute(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(part.strip().rstrip("/") for part in text.split(",") if part.strip())
    for origin in origins:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.hostname or origin != f"{parts.scheme}://{parts.netloc}":
            raise ValueError(text)
    return origins


def _truth(text: str) -> bool:
    if text.lower() in ("true", "1", "yes"):
        return True
    if text.lower() in ("false", "0", "no"):
        return False
    raise ValueError(text)
