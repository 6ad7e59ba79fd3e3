import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from monai_cobot.reports import EpochRecord, plot_training_curves
from monai_cobot.reports._figures import BLUE, VERMILLION


def record(epoch: int, loss: float | None, dice: dict[str, float] | None) -> EpochRecord:
    return {"epoch": epoch, "loss": loss, "dice": dice, "learning_rate": None if loss is None else 1e-4}


HISTORY = [
    record(0, None, {"liver": 0.2, "spleen": 0.3}),
    record(1, 0.9, None),
    record(2, 0.5, {"liver": 0.6, "spleen": 0.5}),
    record(3, 0.4, {"liver": 0.8, "spleen": 0.7}),
]


def count(path, colour: str) -> int:
    pixels = np.asarray(Image.open(path).convert("RGB"))
    return int((pixels == np.round(255 * np.array(to_rgb(colour)))).all(-1).sum())


def test_each_label_has_its_colour_and_the_mean_is_black(tmp_path):
    path = plot_training_curves(HISTORY, tmp_path / "curves.png", title="phantom · LoRA · liver, spleen")
    assert Image.open(path).size == (1500, 1050)
    for colour in (BLUE, VERMILLION, "black"):
        assert count(path, colour) > 500
    assert list(tmp_path.iterdir()) == [path]


def test_a_single_label_is_its_own_mean(tmp_path):
    history = [record(1, 0.9, {"liver": 0.2}), record(2, 0.5, {"liver": 0.6})]
    path = plot_training_curves(history, tmp_path / "curves.png", title="phantom")
    assert count(path, BLUE) == 0


def test_many_labels_make_the_picture_higher_so_that_the_legend_fits(tmp_path):
    dice = {f"label_{i}": 0.5 for i in range(30)}
    path = plot_training_curves([record(1, 0.5, dice)], tmp_path / "curves.png", title="torso")
    width, height = Image.open(path).size
    assert width == 1500
    assert height > 1500


def test_a_history_without_validation_still_shows_the_loss(tmp_path):
    path = plot_training_curves([record(1, 0.9, None), record(2, 0.5, None)], tmp_path / "curves.png", title="phantom")
    assert count(path, "black") > 500


def test_names_with_dollars_and_underscores_are_drawn_as_they_are(tmp_path):
    history = [record(1, 0.9, {"_a$b": 0.2, "$\\bad{": 0.3})]
    assert plot_training_curves(history, tmp_path / "curves.png", title="$\\bad{ $5").exists()


def test_an_empty_history_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one epoch"):
        plot_training_curves([], tmp_path / "curves.png", title="phantom")
    with pytest.raises(ValueError, match="neither a loss nor a DSC"):
        plot_training_curves([record(1, None, None)], tmp_path / "curves.png", title="phantom")
    assert not list(tmp_path.iterdir())


def test_epochs_out_of_order_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must rise from 0 or 1, got \[2, 1\]"):
        plot_training_curves([record(2, 0.5, None), record(1, 0.5, None)], tmp_path / "curves.png", title="phantom")


def test_percent_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"epoch 1: the DSC of 'liver' must be in \[0, 1\], got 85.3"):
        plot_training_curves([record(1, 0.5, {"liver": 85.3})], tmp_path / "curves.png", title="phantom")
