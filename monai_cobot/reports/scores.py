"""How well masks fit the truth, case by case."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np
from matplotlib.axes import Axes

from monai_cobot.reports._figures import BLUE, titled_figure, write_png
from monai_cobot.reports.mask_scores import MEASURES, MaskScores

# Inches.
_LABEL, _LEAST_WIDTH, _HEIGHT = 0.55, 3.4, 3.3
_SPREAD = 0.28
"""Half the width over which the cases of a label are spread, of the distance between two labels."""


def plot_mask_scores(
    scores: Mapping[str, Sequence[MaskScores]],
    path: str | os.PathLike[str],
    *,
    title: str,
    distance_unit: str = "mm",
) -> Path:
    """Draw one panel a measure: a dot for each case, and the median of each label as a line.

    A case without an HD95 (one of its masks is empty) is left out of that panel, and said under the label.

    Args:
        scores: label -> the scores of its cases.
        path: the PNG file to write.
        title: of the picture.

    Returns:
        The path written.

    Raises:
        ValueError: if there is nothing to draw.
        OSError: if the file cannot be written.
    """
    if not any(scores.values()):
        raise ValueError("no case has scores, so there is nothing to draw")
    width = 2 * max(_LEAST_WIDTH, 0.9 + _LABEL * len(scores))
    figure = titled_figure(width, 2 * _HEIGHT + 0.6, title)
    for panel, (measure, (name, unit)) in zip(figure.subplots(2, 2).flatten(), MEASURES.items(), strict=True):
        factor = 100.0 if unit == "%" else 1.0
        values = {label: [factor * getattr(case, measure) for case in cases] for label, cases in scores.items()}
        _draw(panel, values, f"{name} in {distance_unit if unit == 'mm' else unit}")
        if unit == "%":
            panel.set_ylim(top=102)
        panel.set_ylim(bottom=max(0, panel.get_ylim()[0]))
    return write_png(figure, path)


def _draw(panel: Axes, values: Mapping[str, Sequence[float]], name: str) -> None:
    ticks = []
    for place, (label, cases) in enumerate(values.items()):
        finite = sorted(value for value in cases if math.isfinite(value))
        without = len(cases) - len(finite)
        ticks.append(f"{label}\n({without} without)" if without else label)
        if not finite:
            continue
        # neighbours in value stand side by side, the same way in every drawing
        beside = place + _SPREAD * (2 * ((np.arange(len(finite)) * 0.618) % 1) - 1) * (len(finite) > 1)
        panel.plot(beside, finite, "o", color=BLUE, markersize=4.5, alpha=0.65, markeredgewidth=0, clip_on=False)
        panel.hlines(median(finite), place - _SPREAD - 0.07, place + _SPREAD + 0.07, color="black", linewidth=2)
    long = max(len(label) for label in values) > 4 and len(values) > 4
    panel.set_xticks(range(len(ticks)), ticks, rotation=40 if long else 0, ha="right" if long else "center")
    for text in panel.get_xticklabels():
        text.set_parse_math(False)
    panel.set_xlim(-0.6, len(ticks) - 0.4)
    panel.set_title(name, fontsize=11, loc="left")
    panel.grid(axis="y", color="0.9")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
