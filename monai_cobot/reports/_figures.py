"""What the pictures share: colours, and a figure as a PNG file, without pyplot's global state."""

import io
import os
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text

from monai_cobot.files import write_atomically

DOTS_PER_INCH = 150

# Okabe and Ito's palette, told apart with every common colour blindness; its black is kept for means and text.
BLUE = "#0072B2"
VERMILLION = "#D55E00"
GREEN = "#009E73"
ORANGE = "#E69F00"
SKY_BLUE = "#56B4E9"
PURPLE = "#CC79A7"
YELLOW = "#F0E442"


def new_figure(width: float, height: float, layout: ConstrainedLayoutEngine | None = None) -> Figure:
    """An empty white figure of the given size in inches, drawn by Agg whatever back end the user has chosen."""
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    return figure


def shrink_to_fit(text: Text, width: float) -> None:
    """Make a text's letters smaller where it is wider than ``width`` inches."""
    # Hinting makes the width of letters a little more than proportional to their size, hence again until it fits.
    while (needed := text.get_window_extent().width / DOTS_PER_INCH) > width:
        text.set_fontsize(float(text.get_fontsize()) * min(0.98, width / needed))


def titled_figure(width: float, height: float, title: str) -> Figure:
    """An empty figure for panels, of the given size in inches, under a title that is made to fit."""
    figure = new_figure(width, height, ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    heading = figure.suptitle(title, fontsize=14, fontweight="bold", x=0.012, ha="left", parse_math=False)
    shrink_to_fit(heading, width - 0.3)
    return figure


def write_png(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Draw the figure, whole, before anything is written.

    Raises:
        OSError: if the file cannot be written; a file already there stays as it was.
    """
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DOTS_PER_INCH)
    return write_atomically(path, content.getvalue())
