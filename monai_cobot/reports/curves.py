"""The course of a training as a picture: loss and validation DSC over the epochs."""

import math
import os
from collections.abc import Sequence
from itertools import cycle, pairwise, product
from pathlib import Path
from statistics import fmean
from typing import Any, TypedDict

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from monai_cobot.reports._figures import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY_BLUE,
    VERMILLION,
    titled_figure,
    write_png,
)

# Eighteen looks for the labels, solid first. The palette's yellow is too faint on white.
_LOOKS = tuple(product(("-", "--", ":"), (BLUE, VERMILLION, GREEN, ORANGE, SKY_BLUE, PURPLE)))
_LONGEST_NAME = 28


class EpochRecord(TypedDict):
    """What is kept of one epoch."""

    epoch: int
    """1 is the first epoch trained; 0 stands for the model before training."""
    loss: float | None
    """Mean training loss; None where nothing was trained (epoch 0)."""
    dice: dict[str, float] | None
    """Each label's mean validation DSC in [0, 1]; None where the epoch was not validated."""
    learning_rate: float | None
    """The learning rate of the adapter, or None where nothing was trained."""


def plot_training_curves(history: Sequence[EpochRecord], path: str | os.PathLike[str], *, title: str) -> Path:
    """Draw the training loss and, below it, the validation DSC: a thin line a label, a thick one their mean.

    Args:
        history: the epochs in order, epoch 0 (before training) first where it was validated.
        path: the PNG file to write, 1500 x 1050 pixels, higher where the legend of many labels needs it.
        title: what was trained, e.g. "momo · LoRA with COBOT · anterior, posterior".

    Returns:
        The path written.

    Raises:
        ValueError: if there is no epoch, the epochs do not rise, a DSC is not in [0, 1], or there is nothing to draw.
        OSError: if the file cannot be written.
    """
    _check(history)
    num_labels = len({label for record in history for label in record["dice"] or ()})
    figure = titled_figure(10, max(7, 1.8 + 0.36 * num_labels), title)
    loss_axes, dice_axes = figure.subplots(2, 1, sharex=True, height_ratios=(2, 3))
    _plot_loss(loss_axes, history)
    _plot_dice(dice_axes, history)
    last = max(record["epoch"] for record in history)
    dice_axes.set_xlim(-0.02 * max(last, 1), 1.02 * max(last, 1))
    dice_axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    dice_axes.set_xlabel("epoch (0: before training)", fontsize=11)
    for axes in (loss_axes, dice_axes):
        axes.grid(color="0.9")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=10)
    figure.align_ylabels()
    return write_png(figure, path)


def _plot_loss(axes: Axes, history: Sequence[EpochRecord]) -> None:
    points = [(record["epoch"], record["loss"]) for record in history if record["loss"] is not None]
    if points:
        axes.plot(*zip(*points, strict=True), color="black", linewidth=2, marker="o", markersize=3)
    axes.set_ylabel("training loss", fontsize=11)
    rates = [rate for record in history if (rate := record["learning_rate"]) is not None]
    if rates:
        course = f"{rates[0]:.3g}" if rates[0] == rates[-1] else f"{rates[0]:.3g} to {rates[-1]:.3g}"
        axes.set_title(f"learning rate {course}", fontsize=10, color="0.35", loc="right")


def _plot_dice(axes: Axes, history: Sequence[EpochRecord]) -> None:
    validated = [(record["epoch"], record["dice"]) for record in history if record["dice"]]
    axes.set_ylabel("validation DSC", fontsize=11)
    if not validated:
        axes.text(0.5, 0.5, "not validated", transform=axes.transAxes, ha="center", color="0.35", fontsize=11)
        return
    labels = list(dict.fromkeys(label for _, dice in validated for label in dice))
    means = [(epoch, fmean(dice.values())) for epoch, dice in validated]
    name = "mean" if len(labels) > 1 else labels[0]
    _plot_course(axes, means, name, color="black", linewidth=3, markersize=5)
    if len(labels) > 1:
        for label, (line_style, colour) in zip(labels, cycle(_LOOKS), strict=False):
            points = [(epoch, dice[label]) for epoch, dice in validated if label in dice]
            _plot_course(axes, points, label, color=colour, linewidth=1.2, linestyle=line_style, markersize=3)

    best_epoch, best = max(means, key=lambda point: point[1])
    axes.axvline(best_epoch, color="0.35", linewidth=1, linestyle=":")
    axes.set_title(f"best {best:.3f} at epoch {best_epoch} (dotted)", fontsize=10, color="0.35", loc="right")
    lowest = min(value for _, dice in validated for value in dice.values())
    axes.set_ylim(max(0, math.floor(10 * lowest - 0.5) / 10), 1.04)
    legend = axes.legend(
        title="first → last validation",
        alignment="left",
        loc="upper left",
        bbox_to_anchor=(1.01, 1),
        borderaxespad=0,
        frameon=False,
        fontsize=10,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _plot_course(axes: Axes, points: list[tuple[int, float]], name: str, **look: Any) -> None:
    """A line with its first and last value in the legend, and a hollow mark before training."""
    if len(name) > _LONGEST_NAME:
        name = name[: _LONGEST_NAME - 1] + "…"
    label = f"{points[0][1]:.3f} → {points[-1][1]:.3f}  {name}"
    (line,) = axes.plot(*zip(*points, strict=True), marker="o", label=label, **look)
    if points[0][0] == 0:
        axes.plot(*points[0], "o", color=line.get_color(), markerfacecolor="white", markersize=7, zorder=line.zorder)


def _check(history: Sequence[EpochRecord]) -> None:
    if not any(record["loss"] is not None or record["dice"] for record in history):
        raise ValueError("the history has neither a loss nor a DSC to draw; expected the record of at least one epoch")
    epochs = [record["epoch"] for record in history]
    if epochs[0] < 0 or any(later <= earlier for earlier, later in pairwise(epochs)):
        raise ValueError(f"the history's epochs must rise from 0 or 1, got {epochs}")
    for record in history:
        for label, dice in (record["dice"] or {}).items():
            if not 0 <= dice <= 1:
                raise ValueError(f"epoch {record['epoch']}: the DSC of {label!r} must be in [0, 1], got {dice}")
