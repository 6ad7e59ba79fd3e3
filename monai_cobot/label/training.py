"""Training an adapter from the labels on a server, through the bundle, in a process of its own.

``python -m monai_cobot.label.training FOLDER`` does what ``orders.json`` in the folder says. It needs no server: what
it prints is the log. It ends when its standard input does, so that it never outlives who started it. Interrupted, it
goes on from its last epoch.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import sys
import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from monai.bundle import ConfigWorkflow

from monai_cobot.data import labels_in, read_mask, read_volume, write_mask
from monai_cobot.errors import describe_cause
from monai_cobot.files import read_json, write_atomically
from monai_cobot.inferers import guess_preset
from monai_cobot.label.versions import publish
from monai_cobot.options import check_known_options
from monai_cobot.peft import AdapterConfig, read_adapter_config

__all__ = [
    "LabelledImage",
    "Orders",
    "check_options_of_training",
    "goes_on",
    "images_of_labels",
    "main",
    "new_adapter_name",
    "prepare",
    "refuse_programs",
    "validation_dsc",
    "wanted_labels",
]

logger = logging.getLogger(__name__)

ORDERS_FILE = "orders.json"
_LIST_FILE = "list.json"
_OUTPUT = "output"
_REPORTS = ("curves.png", "overlay.png", "scores.csv")

OPTIONS = (
    *("epochs", "learning_rate", "batch_size", "min_foreground", "slices_per_epoch", "val_interval", "patience"),
    *("preset", "axis", "seed", "weight_decay", "slice_memory_gb"),
)
"""Options of the bundle that a request may set."""

NEW_ADAPTER_OPTIONS = ("method", "orchestrate", "decoder", "rank", "bottleneck", "blocks", "image_size")
"""Those that say what an adapter is; only of a new one."""


@dataclass(frozen=True)
class LabelledImage:
    """An image of the studies with its label.

    Attributes:
        name: what the server calls it.
        image, label: the files.
        values: name -> value in the label; empty where it was not said.
        stamp: changes with the files' content.
        patient: whose image it is; without, one whom no other image shows. Training and validation share no patient.
    """

    name: str
    image: str
    label: str
    values: dict[str, int]
    stamp: list[int]
    patient: str = ""


@dataclass(frozen=True)
class Orders:
    """What to train.

    Attributes:
        adapter: its folder; a new version is put into use there.
        train_config: the bundle's ``train.json``.
        options: of the bundle.
        labels: name -> value in the adapter; None to number all that the images have.
        images: to train on.
    """

    adapter: str
    train_config: str
    options: dict[str, Any]
    labels: dict[str, int] | None
    images: list[LabelledImage] = field(default_factory=list)


def check_options_of_training(options: Mapping[str, Any], is_new: bool) -> None:
    """Check what a request sets.

    Args:
        options: name -> value.
        is_new: whether a new adapter is trained.

    Raises:
        ValueError: an option is unknown, or its value cannot be used.
    """
    known = (*OPTIONS, *NEW_ADAPTER_OPTIONS) if is_new else OPTIONS
    unknown = [name for name in options if name not in known]
    if unknown:
        fixed = " (the adapter that is trained has its own)" if unknown[0] in NEW_ADAPTER_OPTIONS else ""
        raise ValueError(f"there is no option {unknown[0]!r} for this training{fixed}; there are {', '.join(known)}.")
    refuse_programs(options)
    check_known_options(options)


def refuse_programs(options: Mapping[str, Any]) -> None:
    """The bundle would run what begins with ``$``, and an adapter's description may come from anyone.

    Raises:
        ValueError: the value of an option, or a part of it, is no plain value.
    """
    programs = [name for name, value in options.items() if _holds_program(value)]
    if programs:
        raise ValueError(f"{programs[0]} is {options[programs[0]]!r}; a plain value is expected.")


def _holds_program(value: Any) -> bool:
    if isinstance(value, Mapping):
        value = [*value, *value.values()]
    if isinstance(value, (list, tuple)):
        return any(map(_holds_program, value))
    return isinstance(value, str) and value.startswith(("$", "@", "%"))


def wanted_labels(
    images: Iterable[LabelledImage], config: AdapterConfig | None, names: Collection[str] | None
) -> dict[str, int] | None:
    """Name -> value of the labels to train on.

    Args:
        images: what there is, as `images_of_labels` gives it.
        config: of the adapter that is trained; None for a new one.
        names: of the labels that are wanted; None for the adapter's or, for a new one, all.

    Returns:
        None for all, whose names nobody said.

    Raises:
        ValueError: a label that is wanted is not there, or none is.
    """
    images = list(images)
    there = list(dict.fromkeys(name for image in images for name in image.values))
    anonymous = any(not image.values for image in images)
    own = config.labels if config is not None else {}
    known = [name for name in own if anonymous or name in there] if own else there
    wanted = known if names is None else [name for name in known if name in names]
    missing = [name for name in names or () if name not in known]
    if missing or (not wanted and (own or there)):
        raise ValueError(
            f"{', '.join(missing or own)}: there is no such label on the server, whose labels are "
            f"{', '.join(there) or 'without names'}. Submit such labels, or train the SAM without an adapter, which "
            "makes a new one."
        )
    if not wanted:
        return None
    return {name: own[name] for name in wanted} if own else {name: value for value, name in enumerate(wanted, start=1)}


def images_of_labels(images: Iterable[LabelledImage], config: AdapterConfig | None) -> list[LabelledImage]:
    """Those whose labels can be told apart: by names or, for an adapter that has some, by its own values.

    Where nobody said names, the values themselves are the labels of a new adapter. Where some did, the values of the
    others say nothing, and their images are left out, with a line in the log.
    """
    images = list(images)
    if config is not None or not any(image.values for image in images):
        return images
    for image in images:
        if not image.values:
            logger.warning("%s is not trained on: nobody said the names of its labels.", image.name)
    return [image for image in images if image.values]


def goes_on(folder: Path, orders: Orders) -> bool:
    """Whether a training of the same orders was interrupted in a folder.

    Raises:
        OSError: the folder cannot be read.
    """
    return (folder / ORDERS_FILE).is_file() and (folder / ORDERS_FILE).read_bytes() == _written(orders)


def prepare(folder: Path, orders: Orders) -> bool:
    """Write what to train into a folder, which then is ready for the process. No other may be training there.

    Returns:
        Whether an interrupted training of the same orders goes on.

    Raises:
        OSError: it cannot be written.
    """
    interrupted = goes_on(folder, orders)
    if not interrupted:
        shutil.rmtree(folder, ignore_errors=True)
        write_atomically(folder / ORDERS_FILE, _written(orders))
    return interrupted


def _written(orders: Orders) -> bytes:
    return json.dumps(asdict(orders), indent=2).encode()


def validation_dsc(config: AdapterConfig) -> float | None:
    """What an adapter reached in its training, the mean over its labels; None where that is not known."""
    scores = config.details.get("validation_dsc")
    known = [score for score in scores.values() if score is not None] if isinstance(scores, dict) else []
    return fmean(known) if known else None


def new_adapter_name(labels: Iterable[str], taken: Iterable[str]) -> str:
    """A name for a new adapter, after its labels."""
    base = re.sub(r"[^\w-]+", "_", "_".join(labels)).strip("_")[:40] or "trained"
    names = [base, *(f"{base}_{number}" for number in range(2, 1000))]
    return next(name for name in names if name not in set(taken))


def _train(folder: Path) -> None:
    orders = read_json(folder / ORDERS_FILE)
    images = [LabelledImage(**image) for image in orders["images"]]
    output = folder / _OUTPUT
    labels = _write_data_list(folder, images, orders["labels"])
    options = dict(orders["options"])
    if options.get("preset") is None:
        options["preset"] = guess_preset(read_volume(images[0].image))
    options = {name: value for name, value in options.items() if value is not None}
    refuse_programs(options)
    print(f"{len(images)} labelled images; labels: {', '.join(labels)}", flush=True)
    config = Path(orders["train_config"])
    workflow = ConfigWorkflow(
        str(config),
        logging_file=False,
        workflow_type="train",
        bundle_root=str(config.parents[1]),
        dataset="msd",
        dataset_dir=str(folder / _LIST_FILE),
        label="all",  # of the list, which holds those that are wanted
        output_dir=str(output),
        resume=(output / "checkpoint.pt").is_file(),
        **options,
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    trained = output / ("best" if (output / "best").is_dir() else "last")
    adapter = Path(orders["adapter"])
    version = publish(adapter, trained, [output / name for name in _REPORTS if (output / name).is_file()])
    score = validation_dsc(read_adapter_config(adapter))
    shown = "" if score is None else f", validation DSC {score:.3f}"
    print(f"{adapter.name}: version {version} is in use now{shown}", flush=True)
    shutil.rmtree(folder)


def _write_data_list(folder: Path, images: list[LabelledImage], labels: dict[str, int] | None) -> dict[str, int]:
    """Labels with the same values in all images, and the list of them; an image that cannot be used is left out."""
    if labels is None:
        found = {int(value) for image in images for value in _values_of(image)}
        labels = {f"label {value}": value for value in sorted(found)}
    entries = []
    for number, image in enumerate(images):
        path = folder / "labels" / f"{number}.nii.gz"
        try:
            mask = read_mask(image.label)
        except (OSError, ValueError) as error:
            print(f"{image.name} is left out: {error}", flush=True)
            continue
        relabelled = np.zeros(mask.array.shape[1:], dtype=np.int16)
        for name, value in labels.items():
            here = image.values.get(name) if image.values else value
            if here is not None:
                relabelled[mask.array[0] == here] = value
        write_mask(relabelled, mask, path)
        entries.append(
            {"image": image.image, "label": str(path), "name": image.name, "patient": image.patient or image.name}
        )
    write_atomically(
        folder / _LIST_FILE,
        # by value: a name of digits would be taken for one
        json.dumps(
            {"labels": {str(value): name for name, value in labels.items()}, "training": entries}, ensure_ascii=False
        ).encode(),
    )
    return labels


def _values_of(image: LabelledImage) -> list[int]:
    try:
        return labels_in(read_mask(image.label).array[0])
    except (OSError, ValueError):
        return []  # reported where the list is written


def _end_with_starter() -> None:
    """End this process when the one that started it is gone."""

    def wait() -> None:
        while os.read(0, 1024):  # past Python's own buffer, which must not be in use when the process ends by itself
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def main(folder: Path) -> int:
    """Train; returns the process's exit code."""
    _end_with_starter()
    if hasattr(os, "nice"):
        os.nice(5)  # who draws a box meanwhile goes first
    try:
        _train(folder)
    except Exception as error:
        print(f"The training failed: {describe_cause(error)}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
