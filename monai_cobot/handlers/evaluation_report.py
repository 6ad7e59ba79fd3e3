"""The end of an evaluation: a table of the DSC, the scores of each case, and a picture."""

from __future__ import annotations

from pathlib import Path

from ignite.engine import Events
from monai.engines import Workflow
from torch import nn

from monai_cobot.data import SliceDataset
from monai_cobot.handlers.case_dice import CaseDice
from monai_cobot.handlers.overlays import choose_shown, middle_samples, overlays_of, predict_masks
from monai_cobot.processes import of_all_processes, place_of_process
from monai_cobot.reports import dice_table, overlay_sheet, write_csv


class EvaluationReport:
    """Prints the DSC of each label, writes that of each case to ``scores.csv`` and draws ``overlay.png``.

    Of several processes that share the cases the first one does so, for all of them.

    Args:
        dice: the evaluator's metric.
        network: the network that is evaluated, a :class:`~monai_cobot.networks.PromptableSam`.
        dataset: the slices of this process, as they are in their files.
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

    def __call__(self, engine: Workflow | None = None) -> None:
        middles = middle_samples(self.dataset)
        shown = choose_shown({key for keys in of_all_processes(list(middles)) for key in keys})
        own = [key for key in shown if key in middles]
        samples = [self.dataset.one_label(middles[key], key[0]) for key in own]
        own_overlays = dict(zip(own, overlays_of(samples, predict_masks(self.network, samples)), strict=True))
        overlays = {key: overlay for part in of_all_processes(own_overlays) for key, overlay in part.items()}
        if place_of_process()[0] == 0:
            sheet = overlay_sheet([overlays[key] for key in shown], self.folder / "overlay.png", title=self.title)
            scores = write_csv(self.folder / "scores.csv", {"prediction": self.dice.scores})
            print(f"\n{self.title}\n\n{dice_table({'': self.dice.scores})}\n")
            print(f"overlays:            {sheet}\nscores of each case: {scores}")

    def take_part_without_cases(self) -> None:
        """What a process without a case does in place of the evaluator's run: the others wait for its part."""
        self.dice.reset()
        self.dice.compute()
        self()
