import numpy as np
import pytest
from PIL import Image

from monai_cobot.reports import plot_relation_matrix


def test_what_adds_is_red_and_what_takes_away_is_blue(tmp_path):
    relation = np.eye(4)
    relation[0, 3], relation[3, 0] = 0.5, -0.5
    path = plot_relation_matrix(relation, tmp_path / "relation.png", title="phantom · LoRA + COBOT")
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert pixels.shape == (1050, 1200, 3)
    red, _, blue = (pixels[..., channel] for channel in range(3))
    # the upper right and the lower left cell of the matrix, which lies left of the colour bar
    middle = 525, 530
    upper_right, lower_left = np.s_[: middle[0], middle[1] : 950], np.s_[middle[0] :, : middle[1]]
    assert (red - blue > 50)[upper_right].sum() > 10_000
    assert (blue - red > 50)[lower_left].sum() > 10_000
    assert (blue - red > 50)[upper_right].sum() == 0


def test_a_matrix_that_did_not_learn_is_white(tmp_path):
    assert plot_relation_matrix(np.eye(30), tmp_path / "relation.png", title="t").is_file()


def test_matrices_that_are_none_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"square relation matrix of finite numbers, got shape \(2, 3\)"):
        plot_relation_matrix(np.zeros((2, 3)), tmp_path / "relation.png", title="t")
    with pytest.raises(ValueError, match="expected 2 names of slots, got 1"):
        plot_relation_matrix(np.eye(2), tmp_path / "relation.png", title="t", slots=["q0"])
