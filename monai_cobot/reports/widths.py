"""The DSC against the width of the bottleneck, as in SAM-COBOT's Figure 5."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from statistics import fmean, stdev

from monai_cobot.reports._figures import BLUE, GREEN, ORANGE, PURPLE, VERMILLION, titled_figure, write_png

_LOOKS = ((BLUE, "o"), (VERMILLION, "s"), (GREEN, "^"), (ORANGE, "D"), (PURPLE, "v"))
# Inches.
_PANEL, _HEIGHT = 4.2, 4.2
_PANELS_A_ROW = 3

Courses = Mapping[str, Mapping[int, Sequence[float]]]
"""Method -> width -> the DSC of each seed, in [0, 1]."""


def plot_widths(courses: Mapping[str, Courses], path: str | os.PathLike[str], *, title: str) -> Path:
    """Draw one panel a data set: the mean DSC over seeds against the width, with the standard deviation as a bar.

    Args:
        courses: data set -> method -> width -> the DSC of each seed; in [0, 1].
        path: the PNG file to write.
        title: of the picture.

    Returns:
        The path written.

    Raises:
        ValueError: if there is nothing to draw.
        OSError: if the file cannot be written.
    """
    if not any(points for methods in courses.values() for points in methods.values()):
        raise ValueError("no method has a DSC at any width, so there is nothing to draw")
    columns = min(len(courses), _PANELS_A_ROW)
    rows = -(-len(courses) // columns)
    width = max(columns * _PANEL, 6.4)
    figure = titled_figure(width, rows * _HEIGHT + 0.9, title)
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    handles = {}
    names = list(dict.fromkeys(name for methods in courses.values() for name in methods))
    for panel, (dataset, methods) in zip(panels, courses.items(), strict=False):
        for position, (name, (colour, marker)) in enumerate(zip(names, cycle(_LOOKS), strict=False)):
            points = methods.get(name, {})
            if not points:
                continue
            # beside one another, so that bars of equal height are both seen
            places = [value * (1 + 0.03 * (position - (len(names) - 1) / 2)) for value in sorted(points)]
            means = [100 * fmean(points[value]) for value in sorted(points)]
            spreads = [100 * stdev(dice) if len(dice := points[value]) > 1 else 0.0 for value in sorted(points)]
            handles[name] = panel.errorbar(
                places, means, spreads, color=colour, marker=marker, markersize=5, linewidth=1.8, capsize=3
            )
        widths = sorted({value for points in methods.values() for value in points})
        panel.set_xscale("log", base=2)
        panel.set_xticks(widths, [str(value) for value in widths])
        panel.minorticks_off()
        panel.set_title(dataset, fontsize=11, loc="left", parse_math=False)
        panel.set_xlabel("width of the bottleneck", fontsize=10)
        low, high = panel.get_ylim()
        if high - low < 1:  # a tenth of a percent is no cliff
            middle = (low + high) / 2
            panel.set_ylim(middle - 0.5, min(middle + 0.5, math.nextafter(100.5, 0)))
        panel.grid(color="0.9")
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[len(courses) :]:
        panel.set_visible(False)
    for panel in panels[::columns]:
        panel.set_ylabel("DSC in %, mean ± deviation over seeds", fontsize=10)
    legend = figure.legend(
        handles.values(), handles.keys(), loc="outside lower left", ncols=len(handles), frameon=False, fontsize=10
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return write_png(figure, path)
