"""The end of a training: what was gained, where it lies, and pictures of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from safetensors.torch import load_file
from torch import nn

from monai_cobot.data import SliceDataset
from monai_cobot.handlers.history import TrainingHistory
from monai_cobot.peft import Adapter
from monai_cobot.reports import (
    OverlaySample,
    before_after_table,
    dice_coefficient,
    overlay_sheet,
    plot_training_curves,
    write_csv,
)

MOST_OVERLAYS = 6


class TrainingReport:
    """Prints a table of the validation DSC before and after training and draws the curves and an overlay sheet.

    "After" is the best epoch, whose adapter it loads into the network. A training that is interrupted from the keyboard
    is reported likewise, as far as it came. Attach it to the trainer before the :class:`TrainingCheckpoint`, so that
    "before" is the network before any training, also in a training that is resumed.

    Args:
        history: what every epoch reached.
        network: the network that is trained, a :class:`~monai_cobot.networks.PromptableSam`.
        adapter: its adapter.
        dataset: the validation slices, as they are in their files.
        folder: where the adapters lie and the pictures go.
        title: what was trained, for the pictures.
    """

    def __init__(
        self,
        history: TrainingHistory,
        network: nn.Module,
        adapter: Adapter,
        dataset: SliceDataset,
        folder: str | Path,
        title: str,
    ) -> None:
        self.history = history
        self.network = network
        self.adapter = adapter
        self.dataset = dataset
        self.folder = Path(folder)
        self.title = title
        self._before: list[np.ndarray] = []

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.STARTED, self._remember)
        engine.add_event_handler(Events.COMPLETED, self._report)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._interrupted)

    def _remember(self, engine: Engine) -> None:
        self._samples = [self.dataset[index] for index in self._choose()]
        self._before = self._predict()

    def _choose(self) -> list[int]:
        """Samples to show: from as many labels and cases as there is room for, in the middle of each."""
        groups: dict[tuple[str, str], list[int]] = {}
        for index in range(len(self.dataset)):
            groups.setdefault((self.dataset.label_of(index), self.dataset.case_of(index)), []).append(index)
        by_label: dict[str, list[int]] = {}
        for (label, _), indices in groups.items():
            by_label.setdefault(label, []).append(indices[len(indices) // 2])
        # one of each label, then a second case of each, ...; each label begins at another case
        rounds = max(len(indices) for indices in by_label.values())
        chosen = [
            indices[(number + offset) % len(indices)]
            for number in range(rounds)
            for offset, indices in enumerate(by_label.values())
            if number < len(indices)
        ]
        return chosen[:MOST_OVERLAYS]

    @torch.no_grad()
    def _predict(self) -> list[np.ndarray]:
        device = next(self.network.parameters()).device
        training = self.network.training
        self.network.eval()
        masks = []
        for sample in self._samples:
            logits = self.network(sample["image"][None].to(device), sample["box"][None].to(device))
            masks.append((logits[0, 0] > 0).cpu().numpy())
        self.network.train(training)
        return masks

    def _report(self, engine: Engine) -> None:
        best = self.history.best
        if best is None:
            print("No epoch was completed; nothing was saved.")
            return
        weights = self.folder / "best" / "adapter_model.safetensors"
        self.adapter.load_state_dict(load_file(weights))
        curves = plot_training_curves(self.history.epochs, self.folder / "curves.png", title=self.title)
        overlay = overlay_sheet(self._overlays(), self.folder / "overlay.png", title=self.title)
        scores = write_csv(self.folder / "scores.csv", {"before": self.history.before, "after": best})
        print(f"\n{self.title}: validation DSC before training and after its best epoch, {self.history.best_epoch}\n")
        print(before_after_table(self.history.before, best))
        print()
        for name, path in {
            "adapter": weights.parent,
            "curves": curves,
            "overlays": overlay,
            "scores of each case": scores,
        }.items():
            print(f"{name + ':':21}{path}")

    def _overlays(self) -> list[OverlaySample]:
        overlays: list[OverlaySample] = []
        for sample, before, after in zip(self._samples, self._before, self._predict(), strict=True):
            truth = sample["label"][0].numpy() > 0
            overlays.append(
                {
                    "image": sample["image"],
                    "truth": truth,
                    "before": before,
                    "after": after,
                    "box": sample["box"],
                    "title": f"{sample['case']}, {sample['label_name']}, slice {sample['slice']}",
                    "dice_before": _dice(before, truth),
                    "dice_after": _dice(after, truth),
                }
            )
        return overlays

    def _interrupted(self, engine: Engine, error: BaseException) -> None:
        if not isinstance(error, KeyboardInterrupt):
            raise error
        print(
            f"\nStopped in epoch {engine.state.epoch}. To go on from the last whole epoch, run again with --resume True."
        )
        self._report(engine)
        raise SystemExit(130) from error


def _dice(prediction: np.ndarray, truth: np.ndarray) -> float:
    counts: Any = [int(mask.sum()) for mask in (prediction & truth, prediction, truth)]
    return dice_coefficient(*counts)
