"""What decided ``vit_mini``'s patch, width and image size: ``python tools/choose_size.py``.

Two tables. The first says how good a mask can be at most, for SAM's decoder answers on a grid of four cells a patch:
the truth of the real sets is put on that grid and brought back to the scan as a network's answer is. The second says
how long a box on a new slice takes with networks of several sizes, and how large their files are.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median

import numpy as np
import torch
from real_sets import REAL_SETS, RealSet
from torch import Tensor
from torch.nn import functional as F

from monai_cobot.networks import VARIANTS, PromptableSam, build_sam
from monai_cobot.networks.frame import logits_to_image, pad_to_square, resize_longest_side
from monai_cobot.reports import mask_dice
from monai_cobot.transforms import slices_of

GRIDS = ((128, 16), (128, 8), (256, 16), (256, 8), (512, 16))
"""Image size and patch, in pixels."""

SIZES = (
    {"patch_size": 16, "width": 192},
    {"patch_size": 8, "width": 128, "heads": 2},
    {"patch_size": 8, "width": 192},
    {"patch_size": 8, "width": 256, "heads": 4},
    {"patch_size": 8, "width": 192, "depth": 12, "global_blocks": (5, 11)},
    {"patch_size": 4, "width": 192, "window_size": 16},
)
"""What is tried beside ``vit_mini``'s other measures."""

ROUNDS = 21


def on_the_grid(mask: Tensor, size: int, patch: int) -> Tensor:
    """A mask (H, W) as the best answer on the decoder's grid gives it back, (H, W)."""
    frame = pad_to_square(resize_longest_side(mask.float()[None, None], size), size)
    cells = F.avg_pool2d(frame, patch // 4) - 0.5
    return logits_to_image(cells, (mask.shape[0], mask.shape[1]), size)[0, 0] > 0


def masks_of(real_set: RealSet, data: Path) -> Iterator[np.ndarray]:
    """The masks that are asked for: (slices, H, W) of each case and label."""
    for loaded in real_set.load(data):
        for value in real_set.labels.values():
            slices = slices_of(loaded.mask(value)[None], "axial")[:, 0]
            asked = slices[slices.sum((1, 2)) >= real_set.min_foreground]
            if len(asked):
                yield asked


def best_dice(masks: np.ndarray, size: int, patch: int) -> float:
    """DSC of masks (slices, H, W) with what the grid gives back."""
    truths = [torch.from_numpy(mask > 0) for mask in masks]
    found = [on_the_grid(truth, size, patch) for truth in truths]
    return mask_dice(torch.stack(found).numpy(), torch.stack(truths).numpy())


def milliseconds(networks: dict[str, PromptableSam], size: int) -> dict[str, float]:
    """A box on a new image, medians over rounds in which each network has its turn."""
    image, box = torch.rand(1, 1, size, size), torch.tensor([[[0.2 * size, 0.3 * size, 0.7 * size, 0.8 * size]]])
    times: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(ROUNDS + 1):
        for name, network in networks.items():
            began = time.perf_counter()
            with torch.no_grad():
                network(image, box)
            times[name].append(1000 * (time.perf_counter() - began))
    return {name: median(values[1:]) for name, values in times.items()}


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the folders that docs/data.md lists")
    arguments = parser.parse_args()

    names = [f"{size} pixels, patch {patch}: {4 * size // patch} cells" for size, patch in GRIDS]
    lines = ["| | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(GRIDS)]
    for real_set in REAL_SETS:
        masks = list(masks_of(real_set, arguments.data))
        cells = [f"{fmean(best_dice(of_case, *grid) for of_case in masks):.3f}" for grid in GRIDS]
        lines.append(f"| {real_set.name} | " + " | ".join(cells) + " |")
    print("\n".join(lines), end="\n\n")

    networks, sizes = {}, {}
    for measures in SIZES:
        name = ", ".join(f"{measure.replace('_', ' ')} {value}" for measure, value in measures.items())
        VARIANTS["trial"] = replace(VARIANTS["vit_mini"], **measures)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # random weights are as quick as others
            sam = build_sam("trial", image_size=256)
        networks[name] = PromptableSam(sam, "float32").eval()
        sizes[name] = sum(parameter.numel() for parameter in sam.parameters())
    found = milliseconds(networks, 256)
    print("| 256 pixels | cells | parameters, millions | file, MB | a box on a new image, ms |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for (name, value), measures in zip(found.items(), SIZES, strict=True):
        grid = 4 * 256 // int(str(measures["patch_size"]))
        print(f"| {name} | {grid} | {sizes[name] / 1e6:.1f} | {2 * sizes[name] / 1e6:.1f} | {value:.0f} |")


if __name__ == "__main__":
    main()
