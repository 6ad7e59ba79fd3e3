"""What a training leaves on disk while it runs: adapters to use, and a checkpoint to go on from."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import Workflow
from monai.handlers import CheckpointLoader

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

    MONAI's own ``CheckpointSaver`` writes in place, so that a process killed meanwhile leaves half a file; its
    ``CheckpointLoader`` does the reading here. Attach it to the trainer last.

    Args:
        path: the file.
        objects: name -> what has ``state_dict`` and ``load_state_dict``; the trainer joins them as ``trainer``.
        resume: go on from the file where there is one. Where there is none, the training was interrupted before the end
            of its first epoch and begins anew.
        save: whether this process writes the file.
    """

    def __init__(self, path: str | Path, objects: Mapping[str, Any], resume: bool = False, save: bool = True) -> None:
        self.path = Path(path)
        self.objects = dict(objects)
        self.resume = resume
        self.save = save

    def attach(self, engine: Workflow) -> None:
        """Attach to a trainer."""
        if self.resume:
            engine.add_event_handler(Events.STARTED, self._load)
        if self.save:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)

    def _load(self, engine: Workflow) -> None:
        if self.path.is_file():
            objects = {**self.objects, "trainer": engine}
            # MONAI annotates less than torch.load takes
            CheckpointLoader(str(self.path), objects, map_location="cpu")(engine)  # type: ignore[arg-type]

    def _save(self, engine: Workflow) -> None:
        buffer = io.BytesIO()
        torch.save({name: item.state_dict() for name, item in {**self.objects, "trainer": engine}.items()}, buffer)
        write_atomically(self.path, buffer.getvalue())
