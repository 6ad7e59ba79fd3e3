"""What a SAM without any fine-tuning makes of boxes on real scans: ``python tools/zero_shot.py``.

Beside it stand two stand-ins that need no learning: the ellipse inscribed in the box and Otsu's threshold inside the
box. Every slice with enough of a label is asked for with its bounding box, exact and, for three seeds, with each side
moved by up to a tenth of the box's width or height, in or out. Scores are by mask, one label of one scan, in 3D over
those slices, then averaged. It writes ``zero_shot.md`` and ``zero_shot.png``, a slice of each set.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import torch
from real_sets import REAL_SETS, RealSet
from torch import Tensor

from monai_cobot.data import LoadedCase
from monai_cobot.files import write_atomically
from monai_cobot.networks import PromptableSam, build_sam
from monai_cobot.reports import MaskScores, OverlaySample, mask_dice, overlay_sheet, score_mask
from monai_cobot.transforms import (
    box_from_mask,
    inscribed_ellipse,
    intensity_range,
    otsu_in_box,
    scale_intensity,
    slices_of,
    volume_from_slices,
)

SEEDS = (0, 1, 2)
JITTER = 0.1
"""Of the box's width and height, the most that a side moves."""

ANSWERS = ("ellipse", "Otsu", "SAM")


@dataclass(frozen=True)
class AskedSlice:
    """A slice of a case, a label's mask in it, and what is answered to its boxes.

    Attributes:
        index: of the slice.
        image: (C, H, W) in [0, 1].
        truth: (H, W).
        box: (4,), the exact one.
        masks: (name, seed) -> (H, W), seed None for the exact box.
    """

    index: int
    image: Tensor
    truth: np.ndarray
    box: Tensor
    masks: dict[tuple[str, int | None], np.ndarray]


def ask(network: PromptableSam, loaded: LoadedCase, value: int, real_set: RealSet) -> Iterator[AskedSlice]:
    """Ask for a label in all slices of a case."""
    images = slices_of(loaded.image.array, "axial")  # (slices, C, H, W)
    truths = slices_of(loaded.mask(value)[None], "axial")[:, 0]
    low, high = intensity_range(loaded.image.array, real_set.preset)
    for index in np.flatnonzero(truths.sum((1, 2)) >= real_set.min_foreground):
        image, truth = scale_intensity(images[index], low, high), truths[index]
        shape = (truth.shape[0], truth.shape[1])
        exact = box_from_mask(truth)
        moved = [jittered(exact, np.random.default_rng([seed, value, index]), shape) for seed in SEEDS]
        boxes = torch.stack([exact, *moved])
        with torch.no_grad():
            logits, _ = network.decode(network.encode(image[None]), boxes[None], shape)
        masks: dict[tuple[str, int | None], np.ndarray] = {}
        for seed, box, answer in zip((None, *SEEDS), boxes, logits[0].numpy() > 0, strict=True):
            masks["ellipse", seed] = inscribed_ellipse(box, shape).numpy()
            masks["Otsu", seed] = otsu_in_box(image.mean(0), box)
            masks["SAM", seed] = answer
        yield AskedSlice(int(index), image, truth, exact, masks)


def jittered(box: Tensor, random: np.random.Generator, shape: tuple[int, int]) -> Tensor:
    """A box with each side moved, within the image."""
    size = (box[2:] - box[:2]).repeat(2)
    moved = box + size * torch.from_numpy(random.uniform(-JITTER, JITTER, 4)).float()
    return moved.clamp(torch.zeros(4), torch.tensor([shape[1], shape[0]] * 2, dtype=torch.float32))


def score(loaded: LoadedCase, slices: list[AskedSlice]) -> dict[tuple[str, int | None], MaskScores]:
    """Scores of every answer on the slices of a case, which are taken for neighbours; within one pixel of a slice."""
    spacing = loaded.image.spacing

    def volume(masks: list[np.ndarray]) -> np.ndarray:
        return volume_from_slices(np.stack(masks)[:, None], "axial")[0]

    truth = volume([asked.truth for asked in slices])
    return {
        key: score_mask(volume([asked.masks[key] for asked in slices]), truth, spacing, tolerance=max(spacing[:2]))
        for key in slices[0].masks
    }


def measure(
    network: PromptableSam, real_set: RealSet, data: Path
) -> tuple[dict[str, list[dict[tuple[str, int | None], MaskScores]]], OverlaySample]:
    """Scores of a set, label -> a dictionary a case, and the middle slice of its first case for the picture."""
    scores: dict[str, list[dict[tuple[str, int | None], MaskScores]]] = {label: [] for label in real_set.labels}
    shown: OverlaySample | None = None
    for loaded in real_set.load(data):
        for label, value in real_set.labels.items():
            slices = list(ask(network, loaded, value, real_set))
            if not slices:
                continue
            scores[label].append(score(loaded, slices))
            if shown is None:
                middle = slices[len(slices) // 2]
                mask = middle.masks["SAM", None]
                shown = {
                    "image": middle.image,
                    "truth": middle.truth,
                    "before": None,
                    "after": mask,
                    "box": middle.box,
                    "title": f"{real_set.name}: {loaded.case.name}, {label}, slice {middle.index}",
                    "dice_before": None,
                    "dice_after": mask_dice(mask, middle.truth),
                }
    if shown is None:
        raise SystemExit(f"{data / real_set.folder}: no slice shows any of the labels {', '.join(real_set.labels)}.")
    return {label: cases for label, cases in scores.items() if cases}, shown


def row(name: str, cases: list[dict[tuple[str, int | None], MaskScores]]) -> str:
    """A line of the table: means over masks, with jittered boxes the mean and deviation over seeds."""
    dice = [f"{fmean(case[answer, None].dice for case in cases):.3f}" for answer in ANSWERS]
    for answer in ANSWERS:
        seeds = [fmean(case[answer, seed].dice for case in cases) for seed in SEEDS]
        dice.append(f"{fmean(seeds):.3f} ± {stdev(seeds):.3f}")
    surface = [f"{fmean(case[answer, None].surface_dice for case in cases):.3f}" for answer in ANSWERS]
    distance = [f"{np.nanmean([case[answer, None].hausdorff95 for case in cases]):.1f}" for answer in ANSWERS]
    return f"| {name} | {len(cases)} | " + " | ".join([*dice, *surface, *distance]) + " |"


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the folders that docs/data.md lists")
    parser.add_argument("--variant", default="vit_mini")
    parser.add_argument("--checkpoint", help="weights of the SAM, if not those that come with vit_mini")
    parser.add_argument("--image_size", type=int, default=256)
    parser.add_argument("--only", help="sets whose name contains this")
    parser.add_argument("--to", type=Path, default=Path("runs/zero_shot"), help="folder for the table and the picture")
    arguments = parser.parse_args()

    sam = build_sam(arguments.variant, arguments.checkpoint, arguments.image_size)
    network = PromptableSam(sam, "auto").eval()
    rows, shown = [], []
    for real_set in REAL_SETS:
        if arguments.only and arguments.only not in real_set.name:
            continue
        scores, sample = measure(network, real_set, arguments.data)
        shown.append(sample)
        rows.append(row(f"**{real_set.name}**", [case for cases in scores.values() for case in cases]))
        if len(scores) > 1:
            rows += [row(label, cases) for label, cases in scores.items()]
    names = [f"DSC, {answer}" for answer in ANSWERS]
    names += [f"jittered, {answer}" for answer in ANSWERS]
    names += [f"surface DSC, {answer}" for answer in ANSWERS]
    names += [f"HD95, {answer}" for answer in ANSWERS]
    table = "\n".join(["| | masks | " + " | ".join(names) + " |", "| --- |" + " ---: |" * (len(names) + 1), *rows])
    print(table)
    write_atomically(arguments.to / "zero_shot.md", (table + "\n").encode())
    overlay_sheet(shown, arguments.to / "zero_shot.png", title=f"{arguments.variant} without fine-tuning, exact boxes")


if __name__ == "__main__":
    main()
