"""A relation matrix of COBOT as a picture: which adapter slots learn from which."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from monai_cobot.reports._figures import titled_figure, write_png

# Up to so many slots, numbers fit into the cells.
_MOST_WITH_NUMBERS = 12


def plot_relation_matrix(
    relation: ArrayLike, path: str | os.PathLike[str], *, title: str, slots: Sequence[str] | None = None
) -> Path:
    """Draw what training changed of a relation matrix S, which starts as the identity: S - I.

    Row m, column l is how much the coefficients of slot m enter those of slot l (SAM-COBOT, Eq. 15-17); red adds, blue
    takes away, and the scale is symmetric about white, which is no change.

    Args:
        relation: (L, L), S.
        path: the PNG file to write.
        title: of what it is.
        slots: names of the L slots in network order, for the axes; 0, 1, ... without.

    Returns:
        The path written.

    Raises:
        ValueError: the matrix is not square or not finite, or there are not as many names as slots.
        OSError: if the file cannot be written.
    """
    change = np.asarray(relation, dtype=float)
    if change.ndim != 2 or change.shape[0] != change.shape[1] or not np.isfinite(change).all():
        raise ValueError(f"expected a square relation matrix of finite numbers, got shape {change.shape}")
    count = len(change)
    names = [str(number) for number in range(count)] if slots is None else list(slots)
    if len(names) != count:
        raise ValueError(f"expected {count} names of slots, got {len(names)}")
    change = change - np.eye(count)
    largest = float(np.abs(change).max()) or 1.0

    figure = titled_figure(8, 7, title)
    axes = figure.subplots()
    image = axes.imshow(change, cmap="RdBu_r", vmin=-largest, vmax=largest)
    for axis, kind in ((axes.xaxis, "to slot"), (axes.yaxis, "from slot")):
        axis.set_label_text(kind, fontsize=11)
        step = -(-count // 24)  # more names would run into one another
        axis.set_ticks(range(0, count, step), names[::step], fontsize=9 if count <= 16 else 8)
    if count <= _MOST_WITH_NUMBERS:
        for (row, column), value in np.ndenumerate(change):
            colour = "white" if abs(value) > 0.7 * largest else "black"
            axes.text(column, row, f"{value:+.2f}", ha="center", va="center", fontsize=8, color=colour)
    bar = figure.colorbar(image, ax=axes, shrink=0.9)
    bar.set_label("change from the identity, S - I", fontsize=11)
    bar.ax.yaxis.set_major_locator(MaxNLocator(7))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return write_png(figure, path)
