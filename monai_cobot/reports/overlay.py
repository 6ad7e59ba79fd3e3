"""Predictions on their images as a sheet to look through: box, truth, prediction before and after training."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from monai_cobot.reports._figures import ORANGE, SKY_BLUE, YELLOW, new_figure, shrink_to_fit, write_png
from monai_cobot.reports._overlay_sample import CheckedSample, OverlaySample, Prediction, Window, check_sample

TRUTH_COLOUR = SKY_BLUE
BEFORE_COLOUR = ORANGE
AFTER_COLOUR = YELLOW
BOX_COLOUR = "white"

# Points. The truth lies broad below a narrow prediction: both are seen where they coincide.
_BROAD, _NARROW = 2.4, 1.2

_MOST_SAMPLES = 64
# Inches.
_PANEL = 2.8
_GAP = 0.08
_MARGIN = 0.2
_TITLE = 0.45
_HEADINGS = 0.3
_ROW_TITLE = 0.32
# A panel's height to width; images beyond stand between black bars.
_LOWEST, _HIGHEST = 0.6, 1.4


def overlay_sheet(samples: Sequence[OverlaySample], path: str | os.PathLike[str], *, title: str) -> Path:
    """Draw one row a sample: the image with its box, if any, then the truth, then each prediction over the truth.

    Outlines run along the edges of pixels, so they show the masks as they are. Where the object is tiny, the panels of
    its row after the first show an enlarged part, which the first one frames; what a prediction has outside that part
    is stated in numbers.

    Args:
        samples: the slices to show, 1 to 64. Where none has a prediction before training, there is one
            column of predictions.
        path: the PNG file to write; a panel is 420 pixels wide.
        title: what was trained, e.g. "momo · LoRA with COBOT · anterior".

    Returns:
        The path written.

    Raises:
        ValueError: if there is no sample or too many, or a sample's shapes, values or box do not fit; the message
            names the sample.
        OSError: if the file cannot be written.
    """
    if not 1 <= len(samples) <= _MOST_SAMPLES:
        raise ValueError(f"a sheet holds 1 to {_MOST_SAMPLES} samples, got {len(samples)}")
    checked = [check_sample(sample) for sample in samples]
    context = "image" if all(sample.box is None for sample in checked) else "image and box"
    columns = [context, "truth", "zero-shot", "fine-tuned"]
    if all(sample.before is None for sample in checked):
        columns[2:] = ["prediction"]

    aspects = [float(np.clip(np.divide(*sample.truth.shape), _LOWEST, _HIGHEST)) for sample in checked]
    rows_top = _MARGIN + _TITLE + _HEADINGS
    height = rows_top + sum(_ROW_TITLE + _PANEL * aspect for aspect in aspects) + _MARGIN
    sheet = _Sheet(2 * _MARGIN + len(columns) * (_PANEL + _GAP) - _GAP, height)
    lefts = {column: _MARGIN + i * (_PANEL + _GAP) for i, column in enumerate(columns)}

    sheet.text(_MARGIN, _MARGIN + 0.25, title, fontsize=14, fontweight="bold")
    for column, left in lefts.items():
        sheet.heading(left, _MARGIN + _TITLE + 0.2, column, _COLUMN_COLOURS[column])
    top = rows_top
    for sample, aspect in zip(checked, aspects, strict=True):
        sheet.text(_MARGIN, top + 0.23, sample.title, fontsize=10)
        top += _ROW_TITLE
        panels = {column: sheet.panel(left, top, _PANEL, _PANEL * aspect) for column, left in lefts.items()}
        _draw_row(sample, panels, aspect)
        top += _PANEL * aspect
    return write_png(sheet.figure, path)


_COLUMN_COLOURS = {
    "image": None,
    "image and box": BOX_COLOUR,
    "truth": TRUTH_COLOUR,
    "zero-shot": BEFORE_COLOUR,
    "fine-tuned": AFTER_COLOUR,
    "prediction": AFTER_COLOUR,
}


class _Sheet:
    """A figure addressed in inches from its upper left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.figure: Figure = new_figure(width, height)
        self._width = width
        self._height = height

    def panel(self, left: float, top: float, width: float, height: float) -> Axes:
        """An empty black panel without axes."""
        bottom = self._height - top - height
        panel = self.figure.add_axes(
            (left / self._width, bottom / self._height, width / self._width, height / self._height), facecolor="black"
        )
        panel.set_xticks([])
        panel.set_yticks([])
        panel.spines[:].set_visible(False)
        return panel

    def text(self, left: float, baseline: float, text: str, **look: Any) -> None:
        drawn = self.figure.text(left / self._width, 1 - baseline / self._height, text, parse_math=False, **look)
        shrink_to_fit(drawn, self._width - left - _MARGIN)

    def heading(self, left: float, baseline: float, text: str, colour: str | None) -> None:
        """A column's heading after a stroke of its colour, if it has one: the headings are the legend."""
        if colour is None:
            self.text(left, baseline, text, fontsize=11)
            return
        middle = 1 - (baseline - 0.05) / self._height
        ends = [left / self._width, (left + 0.3) / self._width]
        for stroke, width in (("black", 4.5), (colour, 2.5)):
            self.figure.add_artist(Line2D(ends, [middle, middle], color=stroke, linewidth=width, solid_capstyle="butt"))
        self.text(left + 0.38, baseline, text, fontsize=11)


def _draw_row(sample: CheckedSample, panels: dict[str, Axes], aspect: float) -> None:
    whole, enlarged = sample.whole(aspect), sample.enlarged(aspect)
    window = enlarged or whole

    context = panels.get("image and box") or panels["image"]
    _draw_image(context, sample.image, whole)
    if sample.box is not None:
        _draw_box(context, sample.box)
    if enlarged is not None:
        context.add_patch(_rectangle(enlarged, edgecolor="white", linewidth=1, linestyle=(0, (2, 3))))
        _write(context, f"dotted frame at right, {whole.width / enlarged.width:.1f} times enlarged")

    _draw_image(panels["truth"], sample.image, window)
    _draw_outlines(panels["truth"], [(sample.truth, TRUTH_COLOUR, _NARROW)])
    if not sample.truth.any():
        _write(panels["truth"], "empty")
    if enlarged is not None and sample.box is not None:
        _draw_box(panels["truth"], sample.box)

    judged = panels.get("fine-tuned") or panels["prediction"]
    _draw_prediction(judged, sample, sample.after, AFTER_COLOUR, window)
    if "zero-shot" in panels:
        _draw_prediction(panels["zero-shot"], sample, sample.before, BEFORE_COLOUR, window)


def _draw_prediction(
    panel: Axes, sample: CheckedSample, prediction: Prediction | None, colour: str, window: Window
) -> None:
    _draw_image(panel, sample.image, window)
    truth = (sample.truth, TRUTH_COLOUR, _BROAD)
    if prediction is None:
        _draw_outlines(panel, [truth])
        _write(panel, "no prediction")
        return
    _draw_outlines(panel, [truth, (prediction.mask, colour, _NARROW)])
    text = f"DSC {prediction.dice:.3f}"
    if not prediction.mask.any():
        text += ", empty"
    elif outside := window.count_outside(prediction.mask):
        text += f", {outside / prediction.mask.sum():.0%} lies outside this view"
    _write(panel, text)


def _draw_image(panel: Axes, image: NDArray[np.float32], window: Window) -> None:
    """The window of an image in pixel coordinates: (0, 0) is the upper left corner of the first pixel."""
    height, width = image.shape[:2]
    panel.imshow(
        image,
        cmap="gray",
        vmin=0,
        vmax=1,
        extent=(0, width, height, 0),
        interpolation="bilinear",
        aspect="auto",  # the window has the panel's own shape, so pixels are square
    )
    panel.set_xlim(window.left, window.left + window.width)
    panel.set_ylim(window.top + window.height, window.top)


def _draw_outlines(panel: Axes, outlines: list[tuple[NDArray[np.bool_], str, float]]) -> None:
    """Masks' outlines, each with its colour and width, in this order, above the dark rims of all."""
    edges = [_edges(mask) for mask, _, _ in outlines]
    for segments, (_, _, width) in zip(edges, outlines, strict=True):
        rim = LineCollection(segments, color="black", linewidth=width + 1.2, capstyle="projecting")
        panel.add_collection(rim, autolim=False)
    for segments, (_, colour, width) in zip(edges, outlines, strict=True):
        line = LineCollection(segments, color=colour, linewidth=width, capstyle="projecting")
        panel.add_collection(line, autolim=False)


def _edges(mask: NDArray[np.bool_]) -> list[NDArray[np.intp]]:
    """The edges between foreground and background pixels, each (2 ends, x and y)."""
    padded = np.pad(mask, 1)
    y, x = np.nonzero(padded[1:-1, 1:] != padded[1:-1, :-1])
    upright = np.stack([np.stack([x, y], 1), np.stack([x, y + 1], 1)], 1)
    y, x = np.nonzero(padded[1:, 1:-1] != padded[:-1, 1:-1])
    level = np.stack([np.stack([x, y], 1), np.stack([x + 1, y], 1)], 1)
    return [*upright, *level]


def _draw_box(panel: Axes, box: tuple[float, float, float, float]) -> None:
    left, top, right, bottom = box
    window = Window(left, top, right - left, bottom - top)
    panel.add_patch(_rectangle(window, edgecolor="black", linewidth=2.7))
    panel.add_patch(_rectangle(window, edgecolor=BOX_COLOUR, linewidth=1.5))


def _rectangle(window: Window, **look: Any) -> Rectangle:
    return Rectangle((window.left, window.top), window.width, window.height, fill=False, joinstyle="miter", **look)


def _write(panel: Axes, text: str) -> None:
    """White words in the lower left corner of a panel."""
    panel.text(
        0.025,
        0.025,
        text,
        transform=panel.transAxes,
        fontsize=9,
        color="white",
        bbox={"facecolor": "black", "alpha": 0.65, "edgecolor": "none", "pad": 2},
    )
