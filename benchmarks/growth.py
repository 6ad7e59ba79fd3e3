"""How time grows with the image size, the batch and the boxes, as a plot: ours and segment_anything's."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.decoder import decoders_for
from benchmarks.rivals import normalised_image, our_sam, stock_sam
from benchmarks.timing import Setting, Work, time_in_turns

BATCHES = (1, 2, 4, 8)
BOXES = (1, 4, 16, 64)
RELEASED = "segment_anything, float32"  # as it is called where ours computes in another precision
COLOURS = {"segment_anything": "#8a8a8a", "ours": "#0b6fb8"}


@dataclass(frozen=True)
class Growth:
    """The times of one panel.

    Attributes:
        title: what is done.
        of: what grows.
        values: of what grows.
        seconds: for each side, those of the rounds at each value.
    """

    title: str
    of: str
    values: Sequence[int]
    seconds: dict[str, list[list[float]]]


def growth(setting: Setting) -> list[Growth]:
    """Measure all three: a quarter of the image size to the whole, batches of the smallest, boxes of the largest."""
    sizes = tuple(setting.image_size * quarters // 4 for quarters in (1, 2, 3, 4))
    small = replace(setting, image_size=sizes[0])
    return [
        _measure(
            f"encoder forward, {setting.variant}",
            "image size, pixels",
            sizes,
            setting,
            lambda size: _encoders(replace(setting, image_size=size), 1),
        ),
        _measure(
            f"encoder forward, {setting.variant} {sizes[0]}",
            "images in a batch",
            BATCHES,
            setting,
            lambda batch: _encoders(small, batch),
        ),
        _measure(
            f"decoder, {setting.variant} {setting.image_size}",
            "boxes of an image",
            BOXES,
            setting,
            lambda count: decoders_for(setting, count),
        ),
    ]


def plot(panels: Sequence[Growth], path: Path) -> None:
    """Write the panels as a PNG, a figure for the eye: medians, with the quartiles as a band."""
    with matplotlib.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(4.2 * len(panels), 3.6), dpi=150, layout="constrained")
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _draw(axes, panel)
        figure.axes[0].legend(loc="upper left", frameon=False)
        figure.savefig(path)


def _measure(
    title: str, of: str, values: Sequence[int], setting: Setting, contenders: Callable[[int], dict[str, Work]]
) -> Growth:
    seconds: dict[str, list[list[float]]] = {name: [] for name in COLOURS}
    for value in values:
        for name, times in time_in_turns(f"{title}, {of} {value}", contenders(value), setting).items():
            if name in seconds or name == RELEASED:
                seconds["segment_anything" if name == RELEASED else name].append(times)
    return Growth(title, of, values, seconds)


def _encoders(setting: Setting, batch: int) -> dict[str, Work]:
    image = normalised_image(setting, batch)
    stock, ours = stock_sam(setting).image_encoder, our_sam(setting).image_encoder
    plain = replace(setting, precision="float32")
    return {
        "segment_anything": plain.inference(partial(stock, image)),
        "ours": setting.inference(partial(ours, image), setting.as_ours()),
    }


def _draw(axes: Axes, panel: Growth) -> None:
    for name, rounds in panel.seconds.items():
        quartiles = [statistics.quantiles(times, n=4) for times in rounds]
        low, median, high = zip(*quartiles, strict=True)
        axes.fill_between(panel.values, low, high, color=COLOURS[name], alpha=0.2, linewidth=0)
        axes.plot(panel.values, median, "o-", color=COLOURS[name], label=name, markersize=4)
    axes.set(title=panel.title, xlabel=panel.of, ylabel="seconds", ylim=(0, None), xticks=panel.values)
    axes.margins(x=0.06)
