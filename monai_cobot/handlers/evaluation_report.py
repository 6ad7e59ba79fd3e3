"""The end of an evaluation: a table of the DSC, the scores of each case, and a picture."""

from __future__ import annotations

from pathlib import Path

from ignite.engine import Events
from monai.engines import Workflow
from torch import nn

from monai_cobot.data import SliceDataset
from monai_cobot.handlers.case_dice import CaseDice
from monai_cobot.handlers.overlays import choose_samples, overlays_of, predict_masks
from monai_cobot.reports import dice_table, overlay_sheet, write_csv


class EvaluationReport:
    """Prints the DSC of each label, writes that of each case to ``scores.csv`` and draws ``overlay.png``.

    Args:
        dice: the evaluator's metric.
        network: the network that is evaluated, a :class:`~monai_cobot.networks.PromptableSam`.
        dataset: the slices, as they are in their files.
        folder: where the files go.
        title: what is evaluated, and on what.
    """

    def __init__(
        self, dice: CaseDice, network: nn.Module, dataset: SliceDataset, folder: str | Path, title: str
    ) -> None:
        self.dice = dice
        self.network = network
        self.dataset = dataset
        self.folder = Path(folder)
        self.title = title

    def attach(self, engine: Workflow) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Workflow) -> None:
        samples = choose_samples(self.dataset)
        overlays = overlays_of(samples, predict_masks(self.network, samples))
        overlay = overlay_sheet(overlays, self.folder / "overlay.png", title=self.title)
        scores = write_csv(self.folder / "scores.csv", {"prediction": self.dice.scores})
        print(f"\n{self.title}\n\n{dice_table({'': self.dice.scores})}\n")
        print(f"overlays:            {overlay}\nscores of each case: {scores}")
