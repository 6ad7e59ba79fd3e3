import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from monai_cobot.reports import plot_widths
from monai_cobot.reports._figures import BLUE, VERMILLION


def test_every_method_has_its_colour_in_the_panel_of_its_data_set(tmp_path):
    courses = {
        "hippocampus": {"LoRA": {4: [0.8, 0.82], 8: [0.81, 0.83]}, "LoRA + COBOT": {4: [0.82], 8: [0.85]}},
        "breast": {"LoRA": {4: [0.7, 0.7]}},
    }
    path = plot_widths(courses, tmp_path / "widths.png", title="DSC against the bottleneck's width")
    pixels = np.asarray(Image.open(path).convert("RGB"))
    half = pixels.shape[1] // 2

    def count(part, colour: str) -> int:
        return int((part == np.round(255 * np.array(to_rgb(colour)))).all(-1).sum())

    above_the_legend = pixels[: int(0.88 * len(pixels))]
    assert count(above_the_legend[:, :half], BLUE) > 300
    assert count(above_the_legend[:, :half], VERMILLION) > 300
    assert count(above_the_legend[:, half:], BLUE) > 20
    assert count(above_the_legend[:, half:], VERMILLION) == 0


def test_nothing_is_drawn_of_nothing(tmp_path):
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_widths({"hippocampus": {"LoRA": {}}}, tmp_path / "widths.png", title="t")
