"""Relation matrices of COBOT as a picture: which adapter slots learn from which."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from monai_cobot.reports._figures import titled_figure, write_png

# Up to so many slots, numbers fit into the cells.
_MOST_WITH_NUMBERS = 12


def plot_relation_matrices(
    relations: Mapping[str, ArrayLike], path: str | os.PathLike[str], *, title: str, slots: Sequence[str] | None = None
) -> Path:
    """Draw what training changed of relation matrices S, which start as the identity: S - I, side by side.

    Row m, column l is how much the coefficients of slot m enter those of slot l (SAM-COBOT, Eq. 15-17); red adds, blue
    takes away, and the scale, the same for all, is symmetric about white, which is no change.

    Args:
        relations: name -> (L, L), S; the names stand above the matrices.
        path: the PNG file to write.
        title: of what it is.
        slots: names of the L slots in network order, for the axes; 0, 1, ... without.

    Returns:
        The path written.

    Raises:
        ValueError: there is none, they are not square, not finite or not of one size, or there are not as many names
            as slots.
        OSError: if the file cannot be written.
    """
    matrices = {name: np.asarray(relation, dtype=float) for name, relation in relations.items()}
    if not matrices:
        raise ValueError("expected at least one relation matrix, got none")
    count = len(next(iter(matrices.values())))
    for matrix in matrices.values():
        if matrix.shape != (count, count) or not np.isfinite(matrix).all():
            raise ValueError(f"expected square relation matrices of one size and finite numbers, got {matrix.shape}")
    names = [str(number) for number in range(count)] if slots is None else list(slots)
    if len(names) != count:
        raise ValueError(f"expected {count} names of slots, got {len(names)}")
    changes = {name: matrix - np.eye(count) for name, matrix in matrices.items()}
    largest = max(float(np.abs(change).max()) for change in changes.values()) or 1.0

    figure = titled_figure(1 + 7 * len(changes), 7, title)
    panels = figure.subplots(1, len(changes), squeeze=False)[0]
    for axes, (name, change) in zip(panels, changes.items(), strict=True):
        image = _draw_change(axes, change, names, largest)
        axes.set_title(name, fontsize=12, parse_math=False)
    bar = figure.colorbar(image, ax=list(panels), shrink=0.9)
    bar.set_label("change from the identity, S - I", fontsize=11)
    bar.ax.yaxis.set_major_locator(MaxNLocator(7))
    return write_png(figure, path)


def _draw_change(axes: Axes, change: np.ndarray, names: Sequence[str], largest: float) -> AxesImage:
    """One matrix S - I, with numbers where they fit."""
    count = len(change)
    image = axes.imshow(change, cmap="RdBu_r", vmin=-largest, vmax=largest)
    for axis, kind in ((axes.xaxis, "to slot"), (axes.yaxis, "from slot")):
        axis.set_label_text(kind, fontsize=11)
        step = -(-count // 24)  # more names would run into one another
        axis.set_ticks(range(0, count, step), names[::step], fontsize=9 if count <= 16 else 8)
    if count <= _MOST_WITH_NUMBERS:
        for (row, column), value in np.ndenumerate(change):
            colour = "white" if abs(value) > 0.7 * largest else "black"
            axes.text(column, row, f"{value:+.2f}", ha="center", va="center", fontsize=8, color=colour)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return image
