"""Validation DSC by case and label, from slices that come in any order and from any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from ignite.metrics import Metric

from monai_cobot.data import SliceDataset
from monai_cobot.processes import of_all_processes
from monai_cobot.reports import CaseScores, dice_coefficient


class CaseDice(Metric):
    """DSC of each case and label over the slices that are evaluated, 2 |P and T| / (|P| + |T|) in their voxels.

    Intersections and sizes are summed over a case's slices first, as in the DSC of a volume that papers report. It is
    that DSC where every slice is evaluated; a `SliceDataset` with boxes leaves out slices in which a label has fewer
    than ``min_foreground`` pixels, such as the ends of an organ, and these are not scored.

    For MONAI's evaluators with ``decollate=False``; reads ``case`` and ``label_name`` of the batch, and ``pred`` and
    ``label``, (B, 1, H, W) of zeros and ones, of the output.

    With ``labels`` a slice has the masks of all of them, (B, K, H, W), and ``label_name`` is not read. A label that is
    neither in a case nor found in it has no DSC there; one that is found where there is none has 0.

    The metric's value is the mean over each label's cases, then over the labels; ``scores`` holds them all.

    Args:
        labels: names of the K labels, for masks of all of them; None where each mask is of the label that it names.
    """

    def __init__(self, labels: Sequence[str] | None = None) -> None:
        self.scores = CaseScores()
        self.labels = None if labels is None else list(labels)
        super().__init__()

    def reset(self) -> None:
        """Forget all slices."""
        self._voxels: dict[tuple[str, str], torch.Tensor] = {}

    def iteration_completed(self, engine: Any) -> None:
        """Count the voxels of a batch of slices."""
        batch, masks = engine.state.batch, engine.state.output
        if self.labels is None:
            self.update((batch["case"], batch["label_name"], masks))
            return
        for number, label in enumerate(self.labels):
            of_label = {name: masks[name][:, number : number + 1] for name in ("pred", "label")}
            self.update((batch["case"], [label] * len(batch["case"]), of_label))

    def update(self, output: tuple[list[str], list[str], dict[str, torch.Tensor]]) -> None:
        """Count the voxels of (cases, label names, {"pred": ..., "label": ...})."""
        cases, labels, masks = output
        prediction, truth = masks["pred"] > 0, masks["label"] > 0  # (B, 1, H, W)
        counts = torch.stack(
            [mask.flatten(1).sum(dim=1) for mask in (prediction & truth, prediction, truth)], dim=1
        ).cpu()  # (B, 3)
        for key, count in zip(zip(cases, labels, strict=True), counts, strict=True):
            self._voxels[key] = self._voxels.get(key, 0) + count

    def compute(self) -> float:
        """The mean DSC over each label's cases, then over the labels, in [0, 1]; the same in every process.

        Raises:
            ValueError: if no slice was seen in any process.
        """
        self.scores = _scores(of_all_processes(self._voxels))
        return self.scores.mean()


def dice_of(dataset: SliceDataset, predict: Callable[[dict[str, Any]], torch.Tensor]) -> CaseScores:
    """DSC of each case and label by a rule that needs no network, in this process alone.

    Args:
        dataset: the slices.
        predict: a sample to its mask (H, W).
    """
    dice = CaseDice()
    for index in range(len(dataset)):
        sample = dataset[index]
        masks = {"pred": predict(sample)[None, None], "label": sample["label"][None]}
        dice.update(([sample["case"]], [sample["label_name"]], masks))
    return _scores([dice._voxels])


def _scores(parts: list[dict[tuple[str, str], torch.Tensor]]) -> CaseScores:
    """DSC from voxel counts of (prediction and truth, prediction, truth), the parts of a case added up."""
    total: dict[tuple[str, str], torch.Tensor] = {}
    for part in parts:
        for key, count in part.items():
            total[key] = total.get(key, 0) + count
    scores = CaseScores()
    for (case, label), count in sorted(total.items(), key=lambda item: item[0][::-1]):
        if count.any():
            scores.add(case, label, dice_coefficient(*count.tolist()))
    return scores
