"""A few predictions to look at: which samples are shown, and what the network says of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from monai_cobot.data import SliceDataset
from monai_cobot.reports import OverlaySample, dice_coefficient

MOST_OVERLAYS = 6


def choose_samples(dataset: SliceDataset) -> list[dict[str, Any]]:
    """Samples to show, at most ``MOST_OVERLAYS``: from as many labels and cases as there is room for, in their middle.

    Args:
        dataset: slices as they are in their files.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for index in range(len(dataset)):
        groups.setdefault((dataset.label_of(index), dataset.case_of(index)), []).append(index)
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
    return [dataset[index] for index in chosen[:MOST_OVERLAYS]]


@torch.no_grad()
def predict_masks(network: nn.Module, samples: Sequence[dict[str, Any]]) -> list[np.ndarray]:
    """The mask of each sample as the network sees it, (H, W) bool; the network's mode is left as it was."""
    device = next(network.parameters()).device
    training = network.training
    network.eval()
    masks = []
    for sample in samples:
        logits = network(sample["image"][None].to(device), sample["box"][None].to(device))
        masks.append((logits[0, 0] > 0).cpu().numpy())
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
                "box": sample["box"],
                "title": f"{sample['case']}, {sample['label_name']}, slice {sample['slice']}",
                "dice_before": None if earlier is None else _dice(earlier, truth),
                "dice_after": _dice(mask, truth),
            }
        )
    return overlays


def _dice(prediction: np.ndarray, truth: np.ndarray) -> float:
    return dice_coefficient(int((prediction & truth).sum()), int(prediction.sum()), int(truth.sum()))
