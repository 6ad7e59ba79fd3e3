import nibabel
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image

from monai_cobot.reports import OverlaySample, dice_coefficient, overlay_sheet
from monai_cobot.reports.overlay import AFTER_COLOUR, BEFORE_COLOUR, TRUTH_COLOUR

PANEL = 420
LEFT, TOP, STEP = 30, 190, 432  # of the first panel and to the next, in pixels of the sheet
COLUMNS = ("image", "truth", "before", "after")


def square(size: int, top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask = np.zeros((size, size), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def sample(**changed) -> OverlaySample:
    values = {
        "image": np.full((100, 100), 0.5),
        "truth": square(100, 30, 70, 20, 60),
        "before": square(100, 10, 80, 10, 90),
        "after": square(100, 32, 72, 22, 62),
        "box": (15.0, 25.0, 65.0, 75.0),
        "title": "case_1 · liver · slice 7",
        "dice_before": 0.444,
        "dice_after": 0.903,
    }
    return OverlaySample(**(values | changed))


def panel(path, column: str) -> np.ndarray:
    left = LEFT + STEP * COLUMNS.index(column)
    return np.asarray(Image.open(path).convert("RGB"))[TOP : TOP + PANEL, left : left + PANEL]


def extent(pixels: np.ndarray, colour: str) -> list[int] | None:
    """Left, top, right and bottom of what has the colour, or None."""
    rows, columns = np.nonzero((pixels == np.round(255 * np.array(to_rgb(colour)))).all(-1))
    return [columns.min(), rows.min(), columns.max(), rows.max()] if rows.size else None


def test_each_outline_lies_where_its_mask_is(tmp_path):
    path = overlay_sheet([sample()], tmp_path / "sheet.png", title="phantom · LoRA · liver")
    assert Image.open(path).size == (1776, 190 + PANEL + 30)
    scale = PANEL / 100
    expected = {
        ("truth", TRUTH_COLOUR): (20, 30, 60, 70),
        ("before", BEFORE_COLOUR): (10, 10, 90, 80),
        ("after", AFTER_COLOUR): (22, 32, 62, 72),
    }
    for (column, colour), edges in expected.items():
        np.testing.assert_allclose(extent(panel(path, column), colour), np.array(edges) * scale, atol=4)
    assert extent(panel(path, "truth"), AFTER_COLOUR) is None
    assert extent(panel(path, "before"), AFTER_COLOUR) is None
    assert list(tmp_path.iterdir()) == [path]


def test_truth_and_prediction_are_both_seen_where_they_coincide(tmp_path):
    same = sample()["truth"]
    path = overlay_sheet([sample(after=same, dice_after=1.0)], tmp_path / "sheet.png", title="phantom")
    pixels = panel(path, "after")
    np.testing.assert_allclose(extent(pixels, TRUTH_COLOUR), extent(pixels, AFTER_COLOUR), atol=3)


def test_the_box_stands_on_the_image(tmp_path):
    path = overlay_sheet([sample()], tmp_path / "sheet.png", title="phantom")
    scale = PANEL / 100
    np.testing.assert_allclose(extent(panel(path, "image"), "white"), np.array([15, 25, 65, 75]) * scale, atol=4)


def test_a_tiny_object_is_enlarged_in_place(tmp_path):
    size = 200
    tiny = {
        "image": np.full((size, size), 0.5),
        "truth": square(size, 100, 110, 50, 60),
        "before": np.ones((size, size)),
        "after": square(size, 100, 110, 50, 60),
        "box": (50, 100, 60, 110),
    }
    path = overlay_sheet([sample(**tiny)], tmp_path / "sheet.png", title="phantom")
    left, top, right, bottom = extent(panel(path, "truth"), TRUTH_COLOUR)
    # 2.5 times 10 pixels fill the panel, the object in their middle.
    assert right - left == pytest.approx(PANEL / 2.5, abs=5)
    assert bottom - top == pytest.approx(PANEL / 2.5, abs=5)
    assert (left + right) / 2 == pytest.approx(PANEL / 2, abs=3)
    # The box, in the whole image, keeps its place; the dotted frame lies around it.
    context = extent(panel(path, "image")[: PANEL - 40], "white")
    np.testing.assert_allclose(context, np.array([42.5, 92.5, 67.5, 117.5]) * PANEL / size, atol=4)


def test_a_column_without_any_prediction_is_left_out(tmp_path):
    untrained = sample(before=None, dice_before=None)
    path = overlay_sheet([untrained], tmp_path / "sheet.png", title="phantom")
    assert Image.open(path).size[0] == 1776 - STEP
    path = overlay_sheet([untrained, sample()], tmp_path / "sheet.png", title="phantom")
    assert Image.open(path).size[0] == 1776
    assert extent(panel(path, "before"), BEFORE_COLOUR) is None


def test_tensors_with_a_channel_give_the_same_sheet_as_arrays(tmp_path):
    arrays = sample(image=np.linspace(0, 1, 100 * 100, dtype=np.float32).reshape(100, 100))
    tensors = {
        key: torch.as_tensor(np.asarray(value, dtype=np.float32))[None] if np.ndim(value) == 2 else value
        for key, value in arrays.items()
    } | {"box": torch.tensor(arrays["box"], requires_grad=True)}
    overlay_sheet([arrays], tmp_path / "arrays.png", title="phantom")
    overlay_sheet([OverlaySample(**tensors)], tmp_path / "tensors.png", title="phantom")
    assert (tmp_path / "arrays.png").read_bytes() == (tmp_path / "tensors.png").read_bytes()


def test_pixels_stay_square_and_the_rest_of_a_long_image_s_panel_is_black(tmp_path):
    flat = {
        "image": np.ones((3, 20, 100)),
        "truth": square(100, 0, 20, 40, 80)[:20],
        "before": None,
        "dice_before": None,
        "after": square(100, 0, 20, 40, 80)[:20],
        "box": (40, 0, 80, 20),
    }
    path = overlay_sheet([sample(**flat)], tmp_path / "sheet.png", title="phantom")
    pixels = np.asarray(Image.open(path).convert("RGB"))[TOP + 1 : TOP + 251, LEFT : LEFT + PANEL]
    white_rows = np.flatnonzero((pixels[:, 10] > 200).all(-1))
    assert white_rows.size == pytest.approx(20 / 100 * PANEL, abs=4)
    assert (pixels[:5, 10] == 0).all()


def test_titles_with_dollars_or_beyond_the_sheet_s_width_are_drawn(tmp_path):
    path = overlay_sheet([sample(title="case $\\bad{ " * 30)], tmp_path / "sheet.png", title="$\\bad{ " * 40)
    margin = np.asarray(Image.open(path).convert("RGB"))[:180, -20:]
    assert (margin == 255).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image": np.zeros((2, 100, 100))}, r"the image must be \(H, W\), \(1, H, W\) or \(3, H, W\), got \(2, 100"),
        ({"image": np.full((100, 100), 255.0)}, r"must be in \[0, 1\], got 255 to 255"),
        ({"image": np.full((100, 100), np.nan)}, r"must be in \[0, 1\]"),
        ({"truth": np.zeros((50, 100))}, r"'truth' must be \(100, 100\) as the image, got \(50, 100\)"),
        ({"after": np.zeros((100, 50))}, r"'after' must be \(100, 100\)"),
        ({"box": (10, 10, 20)}, r"the box must be 4 numbers"),
        ({"box": (20, 10, 10, 20)}, r"the box must be xyxy within the image of 100 x 100 pixels, got \(20, 10, 10"),
        ({"box": (10, 10, 20, 101)}, r"within the image"),
        ({"dice_after": 90.3}, r"'dice_after' must be in \[0, 1\], got 90.3"),
        ({"dice_before": None}, r"'dice_before' must be in \[0, 1\], got None"),
    ],
)
def test_a_sample_whose_parts_do_not_fit_is_named(tmp_path, changed, message):
    with pytest.raises(ValueError, match=message) as raised:
        overlay_sheet([sample(**changed)], tmp_path / "sheet.png", title="phantom")
    assert "case_1 · liver · slice 7" in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_a_sheet_without_samples_or_with_too_many_is_refused(tmp_path):
    for number in (0, 65):
        with pytest.raises(ValueError, match=f"1 to 64 samples, got {number}"):
            overlay_sheet([sample()] * number, tmp_path / "sheet.png", title="phantom")


def real_sample(image: np.ndarray, truth: np.ndarray, title: str) -> OverlaySample:
    rows, columns = np.nonzero(truth)
    after = np.roll(truth, 1, axis=1)
    counts = (int((after & truth).sum()), int(after.sum()), int(truth.sum()))
    return OverlaySample(
        image=image,
        truth=truth,
        before=None,
        after=after,
        box=(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1),
        title=title,
        dice_before=None,
        dice_after=dice_coefficient(*counts),
    )


def test_an_ultrasound_and_an_mri_of_different_sizes_stand_on_one_sheet(tmp_path, shared_data):
    benign = shared_data / "Dataset_BUSI_with_GT" / "benign"
    ultrasound = np.asarray(Image.open(benign / "benign (1).png").convert("RGB")) / 255.0
    lesion = np.asarray(Image.open(benign / "benign (1)_mask.png").convert("L")) > 0
    case = sorted((shared_data / "Task04_Hippocampus" / "imagesTr").glob("hippocampus_*.nii.gz"))[0]
    volume = nibabel.load(case).get_fdata()
    labels = nibabel.load(case.parent.parent / "labelsTr" / case.name).get_fdata() == 1
    index = int(labels.sum((0, 1)).argmax())
    samples = [
        real_sample(np.moveaxis(ultrasound, -1, 0), lesion, "benign (1) · tumour"),
        real_sample(np.clip(volume[..., index] / volume.max(), 0, 1), labels[..., index], case.name),
    ]
    path = overlay_sheet(samples, tmp_path / "sheet.png", title="real images")
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert extent(pixels, TRUTH_COLOUR) is not None
    assert extent(pixels, AFTER_COLOUR) is not None


def test_without_boxes_the_image_stands_alone_and_a_tiny_object_is_still_enlarged(tmp_path):
    tiny = square(100, 40, 46, 50, 56)
    path = overlay_sheet([sample(box=None, truth=tiny, after=tiny, before=None)], tmp_path / "sheet.png", title="t")
    assert Image.open(path).size[0] == 3 * PANEL + 2 * (STEP - PANEL) + 2 * LEFT
    # an outline of 6 of 24 or more pixels' width, not of 6 of 100
    columns = (
        (np.abs(panel(path, "truth").astype(int) - np.round(255 * np.array(to_rgb(TRUTH_COLOUR)))) < 2).all(-1).any(0)
    )
    assert np.ptp(columns.nonzero()[0]) > 80
    empty = np.zeros((100, 100), dtype=bool)
    assert overlay_sheet([sample(box=None, truth=empty, before=None)], tmp_path / "empty.png", title="t").is_file()
