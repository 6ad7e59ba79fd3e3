"""A few predictions to look at: which samples are shown, and what the network says of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from monai_cobot.data import SliceDataset
from monai_cobot.reports import OverlaySample, mask_dice

MOST_OVERLAYS = 6

Shown = tuple[str, str]
"""A label and a case."""


def choose_samples(dataset: SliceDataset) -> list[dict[str, Any]]:
    """Samples to show, at most ``MOST_OVERLAYS``: from as many labels and cases as there is room for, in their middle.

    Args:
        dataset: slices as they are in their files.
    """
    middles = middle_samples(dataset)
    return [dataset.one_label(middles[shown], shown[0]) for shown in choose_shown(middles)]


def middle_samples(dataset: SliceDataset) -> dict[Shown, int]:
    """The sample in the middle of each label of each case."""
    groups: dict[Shown, list[int]] = {}
    for index in range(len(dataset)):
        for label in dataset.labels_of(index):
            groups.setdefault((label, dataset.case_of(index)), []).append(index)
    return {shown: indices[len(indices) // 2] for shown, indices in groups.items()}


def choose_shown(there: Iterable[Shown]) -> list[Shown]:
    """At most ``MOST_OVERLAYS`` labels of cases, the same for the same ones in any order."""
    by_label: dict[str, list[Shown]] = {}
    for shown in sorted(there):
        by_label.setdefault(shown[0], []).append(shown)
    # one of each label, then a second case of each, ...; each label begins at another case
    rounds = max((len(of_label) for of_label in by_label.values()), default=0)
    chosen = [
        of_label[(number + offset) % len(of_label)]
        for number in range(rounds)
        for offset, of_label in enumerate(by_label.values())
        if number < len(of_label)
    ]
    return chosen[:MOST_OVERLAYS]


@torch.no_grad()
def predict_masks(network: nn.Module, samples: Sequence[dict[str, Any]]) -> list[np.ndarray]:
    """The mask of each sample's label as the network sees it, (H, W) bool; the network's mode is left as it was."""
    device = next(network.parameters()).device
    training = network.training
    network.eval()
    masks = []
    for sample in samples:
        image = sample["image"][None].to(device)
        if "class" in sample:
            mask = network(image)[0].argmax(dim=0) == sample["class"]
        else:
            mask = network(image, sample["box"][None].to(device))[0, 0] > 0
        masks.append(mask.cpu().numpy())
    network.train(training)
    return masks


def overlays_of(
    samples: Sequence[dict[str, Any]], after: Sequence[np.ndarray], before: Sequence[np.ndarray] | None = None
) -> list[OverlaySample]:
    """Samples with their predictions, for :func:`~monai_cobot.reports.overlay_sheet`.

    Args:
        samples: as :func:`choose_samples` gives them.
        after: the masks that are judged, as :func:`predict_masks` gives them.
        before: masks from before training to compare them with, where there are any.
    """
    overlays: list[OverlaySample] = []
    for number, (sample, mask) in enumerate(zip(samples, after, strict=True)):
        truth = sample["label"][0].numpy() > 0
        earlier = None if before is None else before[number]
        overlays.append(
            {
                "image": sample["image"],
                "truth": truth,
                "before": earlier,
                "after": mask,
                "box": sample.get("box"),
                "title": f"{sample['case']}, {sample['label_name']}, slice {sample['slice']}",
                "dice_before": None if earlier is None else mask_dice(earlier, truth),
                "dice_after": mask_dice(mask, truth),
            }
        )
    return overlays
