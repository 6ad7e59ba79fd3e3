import numpy as np
import pytest
from PIL import Image

from monai_cobot.reports import plot_relation_matrices


def test_what_adds_is_red_and_what_takes_away_is_blue(tmp_path):
    relation = np.eye(4)
    relation[0, 3], relation[3, 0] = 0.5, -0.5
    path = plot_relation_matrices({"": relation}, tmp_path / "relation.png", title="phantom · LoRA + COBOT")
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
    assert plot_relation_matrices({"": np.eye(30)}, tmp_path / "relation.png", title="t").is_file()


def test_several_matrices_are_on_one_scale(tmp_path):
    strong, weak = np.eye(4), np.eye(4)
    strong[0, 3], weak[0, 3] = 0.8, 0.1
    path = plot_relation_matrices({"seed 0": strong, "seed 1": weak}, tmp_path / "relation.png", title="t")
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    colour = pixels.max(-1) - pixels.min(-1)
    assert colour.shape == (1050, 2250)
    assert colour[:, :1050].max() > 90
    assert 10 < colour[:, 1050:2000].max() < 60  # the colour bar lies behind


def test_matrices_that_are_none_are_refused(tmp_path):
    refused = {
        r"square relation matrices of one size and finite numbers, got \(2, 3\)": {"": np.zeros((2, 3))},
        r"one size and finite numbers, got \(3, 3\)": {"a": np.eye(2), "b": np.eye(3)},
        "at least one relation matrix, got none": {},
    }
    for message, relations in refused.items():
        with pytest.raises(ValueError, match=message):
            plot_relation_matrices(relations, tmp_path / "relation.png", title="t")
    with pytest.raises(ValueError, match="expected 2 names of slots, got 1"):
        plot_relation_matrices({"": np.eye(2)}, tmp_path / "relation.png", title="t", slots=["q0"])
