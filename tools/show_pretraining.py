"""Draw what ``vit_mini`` is pretrained on, and how a run went: ``python tools/show_pretraining.py``.

It writes ``pretraining_samples.png`` (generated images, each without and with the outlines of what is asked for in it)
and, where there is a log, ``pretraining_log.png``.
"""

import argparse
import json
from io import BytesIO
from pathlib import Path

import torch
from matplotlib.figure import Figure
from pretraining.scenes import generate
from torch import Generator

from monai_cobot.files import write_atomically

ROWS, COLUMNS = 6, 4
SIZE = 256


def draw_samples(seed: int) -> Figure:
    """A sheet of generated images of 256 pixels, outlines of their objects on the right of each."""
    scenes = generate(Generator().manual_seed(seed), ROWS * COLUMNS, SIZE)
    figure = Figure(figsize=(4 * COLUMNS, 2 * ROWS), dpi=100, layout="constrained")
    panels = figure.subplots(ROWS, 2 * COLUMNS).reshape(-1, 2)
    for (left, right), image, masks, seen in zip(
        panels, scenes.images[:, 0].numpy(), scenes.masks, scenes.seen, strict=True
    ):
        for panel in (left, right):
            panel.imshow(image, cmap="gray", vmin=0, vmax=1)
            panel.axis("off")
        for index, mask in enumerate(masks[seen].numpy()):
            right.contour(mask, levels=[0.5], colors=[f"C{index % 10}"], linewidths=1)
    return figure


def draw_log(log: Path) -> Figure:
    """Loss, and DSC on held-out images beside the inscribed ellipse's, over the minutes of training."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(9, 4), dpi=120, layout="constrained")
    loss, dice = figure.subplots(1, 2)
    for size in sorted({line["size"] for line in lines}):
        here = [line for line in lines if line["size"] == size]
        for panel, name in ((loss, "loss"), (dice, "dice")):
            points = [(line["minutes"], line[name]) for line in here if name in line]
            panel.plot(*zip(*points, strict=True) if points else ((), ()), ".-", label=f"{size} pixels")
    ellipse = [(line["minutes"], line["ellipse_dice"]) for line in lines if "ellipse_dice" in line]
    dice.plot(*zip(*ellipse, strict=True) if ellipse else ((), ()), "k--", label="inscribed ellipse")
    for panel, name in ((loss, "loss"), (dice, "DSC, held-out generated images")):
        panel.set(xlabel="minutes of training", ylabel=name)
        panel.legend()
    return figure


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--log", type=Path, default=Path("docs/pretraining_log.jsonl"), help="of the pretraining run")
    parser.add_argument("--to", type=Path, default=Path("docs/pictures"), help="where the pictures are written")
    parser.add_argument("--seed", type=int, default=0, help="of the generated images")
    options = parser.parse_args(arguments)

    pictures = {"pretraining_samples.png": draw_samples(options.seed)}
    if options.log.exists():
        pictures["pretraining_log.png"] = draw_log(options.log)
    for name, figure in pictures.items():
        buffer = BytesIO()
        figure.savefig(buffer, format="png")
        print(write_atomically(options.to / name, buffer.getvalue()))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
