"""What a training leaves on disk while it runs: adapters to use, and a checkpoint to go on from."""

from __future__ import annotations

import io
import pickle
import textwrap
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import Workflow

from monai_cobot.files import write_atomically
from monai_cobot.handlers.history import TrainingHistory
from monai_cobot.peft import Adapter, save_adapter


class AdapterSaver:
    """Saves the adapter after every epoch as ``last``, and as ``best`` where the validation DSC is the highest so far.

    Attach it to the trainer after the :class:`TrainingHistory`.

    Args:
        adapter: the adapter that is trained.
        history: knows which epoch was the best.
        folder: where the folders ``best`` and ``last`` are made.
        preset: intensity preset of the images, for the adapter's configuration.
        labels: name -> value of what is segmented, likewise.
        details: whatever else the configuration should say, such as the data set.
    """

    def __init__(
        self,
        adapter: Adapter,
        history: TrainingHistory,
        folder: str | Path,
        preset: str | None = None,
        labels: dict[str, int] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        self.adapter = adapter
        self.history = history
        self.folder = Path(folder)
        self.preset = preset
        self.labels = labels
        self.details = dict(details or {})

    def attach(self, engine: Workflow) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Workflow) -> None:
        epoch = engine.state.epoch
        details = {**self.details, "epoch": epoch, "validation_dsc": self.history.epochs[-1]["dice"]}
        for name in ("best", "last") if self.history.best_epoch == epoch else ("last",):
            save_adapter(self.adapter, self.folder / name, preset=self.preset, labels=self.labels, details=details)


class TrainingCheckpoint:
    """Writes one file after every epoch, whole or not at all, and goes on from it.

    MONAI's own ``CheckpointSaver`` writes in place, so that a process killed meanwhile leaves half a file, and its
    ``CheckpointLoader`` mixes what was trained in one way with what is to be trained in another. Attach it to the
    trainer last.

    Args:
        path: the file.
        objects: name -> what has ``state_dict`` and ``load_state_dict``; the trainer joins them as ``trainer``.
        settings: name -> plain values that must be as they were for the training to be the same one.
        resume: go on from the file where there is one. Where there is none, the training was interrupted before the end
            of its first epoch and begins anew.
        save: whether this process writes the file.
    """

    def __init__(
        self,
        path: str | Path,
        objects: Mapping[str, Any],
        settings: Mapping[str, Any] | None = None,
        resume: bool = False,
        save: bool = True,
    ) -> None:
        self.path = Path(path)
        self.objects = dict(objects)
        self.settings = dict(settings or {})
        self.resume = resume
        self.save = save

    def attach(self, engine: Workflow) -> None:
        """Attach to a trainer."""
        if self.resume:
            engine.add_event_handler(Events.STARTED, self._load)
        if self.save:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)

    def _load(self, engine: Workflow) -> None:
        if not self.path.exists():
            return
        content = self._read()
        self._check_settings(content["settings"])
        max_epochs, completed = engine.state.max_epochs, content["trainer"]["iteration"] // engine.state.epoch_length
        if completed > max_epochs:
            raise ValueError(
                f"{self.path}: this training has completed {completed} epochs, more than the {max_epochs} that are "
                "wanted. Raise epochs to go on, or begin anew in another output_dir."
            )
        for name, item in {**self.objects, "trainer": engine}.items():
            item.load_state_dict(content[name])
        engine.state.max_epochs = max_epochs  # the trainer's state has that of before

    def _read(self) -> dict[str, Any]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                if damaged := archive.testzip():  # torch.load does not look at the checksums
                    raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")
            content = torch.load(self.path, map_location="cpu", weights_only=True)
        except (zipfile.BadZipFile, RuntimeError, OSError, KeyError, pickle.UnpicklingError) as error:
            raise ValueError(
                f"{self.path}: the checkpoint cannot be read; it is damaged or something else. Copy it again, or begin "
                "anew without resume."
            ) from error
        names = {*self.objects, "settings", "trainer"}
        if not isinstance(content, dict) or content.keys() != names:
            raise ValueError(
                f"{self.path}: this is no checkpoint of such a training, which holds {', '.join(sorted(names))}. Name "
                "the output_dir of the training to go on with, or begin anew without resume."
            )
        return content

    def _check_settings(self, before: Mapping[str, Any]) -> None:
        differences = [
            f"{name} was {_short(before.get(name))} and is {_short(self.settings.get(name))}"
            for name in {**self.settings, **before}
            if _in_order(before.get(name)) != _in_order(self.settings.get(name))
        ]
        if differences:
            raise ValueError(
                f"{self.path}: this training was begun with other options: {'; '.join(differences)}. Resume it with "
                "those it was begun with, or begin anew in another output_dir."
            )

    def _save(self, engine: Workflow) -> None:
        content = {name: item.state_dict() for name, item in {**self.objects, "trainer": engine}.items()}
        buffer = io.BytesIO()
        torch.save({**content, "settings": self.settings}, buffer)
        write_atomically(self.path, buffer.getvalue())


def _in_order(value: Any) -> Any:
    """The order of labels says which class is which; two dictionaries are equal in any order."""
    return list(value.items()) if isinstance(value, Mapping) else value


def _short(value: Any) -> str:
    return textwrap.shorten(repr(value), 80, placeholder=" ...")
