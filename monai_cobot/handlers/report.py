"""The end of a training: what was gained, where it lies, and pictures of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ignite.engine import Events
from monai.engines import Workflow
from safetensors.torch import load_file
from torch import nn

from monai_cobot.data import SliceDataset
from monai_cobot.handlers.case_dice import dice_of
from monai_cobot.handlers.history import TrainingHistory
from monai_cobot.handlers.overlays import choose_samples, overlays_of, predict_masks
from monai_cobot.peft import Adapter
from monai_cobot.reports import CaseScores, dice_table, overlay_sheet, plot_training_curves, write_csv
from monai_cobot.transforms import inscribed_ellipse


class TrainingReport:
    """Prints a table of the validation DSC before and after training and draws the curves and an overlay sheet.

    "Zero-shot" is the network before any training, where that was validated, also in a training that is resumed, and
    "fine-tuned" the best epoch, whose adapter it loads into the network; beside them stands the ellipse inscribed in
    the box, where there is one, which needs neither image nor network. A training that is interrupted from the keyboard
    is reported likewise, as far as it came. Attach it to the trainer before the :class:`TrainingCheckpoint`.

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

    def attach(self, engine: Workflow) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.STARTED, self._remember)
        engine.add_event_handler(Events.COMPLETED, self._report)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._interrupted)

    def _remember(self, engine: Workflow) -> None:
        self._samples = choose_samples(self.dataset)
        self._before = predict_masks(self.network, self._samples)

    def _report(self, engine: Workflow) -> None:
        best = self.history.best
        if best is None:
            if any(record["epoch"] > 0 for record in self.history.epochs):
                print(f"No epoch was validated; the adapter of the last one is in {self.folder / 'last'}.")
            else:
                print("No epoch was completed; nothing was saved.")
            return
        weights = self.folder / "best" / "adapter_model.safetensors"
        self.adapter.load_state_dict(load_file(weights))
        curves = plot_training_curves(self.history.epochs, self.folder / "curves.png", title=self.title)
        ellipse = CaseScores()
        if not self.dataset.classes:
            ellipse = dice_of(self.dataset, lambda sample: inscribed_ellipse(sample["box"], sample["label"].shape[-2:]))
        columns = {"ellipse": ellipse, "zero-shot": self.history.before, "fine-tuned": best}
        columns = {name: scores for name, scores in columns.items() if len(scores)}
        overlays = overlays_of(self._samples, predict_masks(self.network, self._samples), self._before)
        overlay = overlay_sheet(overlays, self.folder / "overlay.png", title=self.title)
        scores = write_csv(self.folder / "scores.csv", columns)
        epochs = f"{self.history.best_epoch} epoch" + "s" * (self.history.best_epoch != 1)
        print(f"\n{self.title}: validation DSC, fine-tuned for {epochs} (the best)\n")
        print(dice_table(columns))
        print()
        for name, path in {
            "adapter": weights.parent,
            "curves": curves,
            "overlays": overlay,
            "scores of each case": scores,
        }.items():
            print(f"{name + ':':21}{path}")

    def _interrupted(self, engine: Workflow, error: BaseException) -> None:
        if not isinstance(error, KeyboardInterrupt):
            raise error
        print(f"\nStopped in epoch {engine.state.epoch}. Run the same command again with --resume at its end to go on.")
        self._report(engine)
        raise SystemExit(130) from error
