import math

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from monai_cobot.reports import MaskScores, plot_mask_scores
from monai_cobot.reports._figures import BLUE


def dots(path) -> np.ndarray:
    """Which pixels are of the dots' blue, mixed with the white below it or not."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    blue = np.round(255 * np.array(to_rgb(BLUE)))
    mixed = np.round(0.65 * blue + 0.35 * 255)
    return np.any([(np.abs(pixels - colour) <= 3).all(-1) for colour in (blue, mixed)], axis=0)


def test_every_case_is_a_dot_in_every_panel_where_it_has_a_value(tmp_path):
    cases = [MaskScores(0.5 + 0.1 * step, 0.4 + 0.1 * step, 0.3 + 0.1 * step, 2.0 + step) for step in range(4)]
    whole = dots(plot_mask_scores({"liver": cases}, tmp_path / "scores.png", title="found against true"))
    rows, columns = (size // 2 for size in whole.shape)
    panels = [whole[:rows, :columns], whole[:rows, columns:], whole[rows:, :columns], whole[rows:, columns:]]
    counts = [int(panel.sum()) for panel in panels]
    assert min(counts) > 100
    assert max(counts) < 1.1 * min(counts)
    lost = [*cases[:2], *(MaskScores(0.0, 0.0, 0.0, math.nan) for _ in range(2))]
    half = dots(plot_mask_scores({"liver": lost}, tmp_path / "half.png", title="found against true"))
    assert int(half[rows:, columns:].sum()) == pytest.approx(counts[3] / 2, rel=0.1)


def test_nothing_is_drawn_of_nothing(tmp_path):
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_mask_scores({"1": []}, tmp_path / "scores.png", title="t")
