import csv

import numpy as np
import pytest
import SimpleITK as sitk


def write(mask: np.ndarray, path) -> None:
    path.parent.mkdir(exist_ok=True)
    image = sitk.GetImageFromArray(mask)
    image.SetSpacing((1.0, 1.0, 2.0))
    sitk.WriteImage(image, str(path))


@pytest.fixture
def folders(tmp_path):
    """Two cases: one predicted exactly for label 1 and a voxel off for label 2, one without a prediction."""
    truth = np.zeros((8, 20, 20), dtype=np.uint8)
    truth[2:6, 4:10, 4:10], truth[2:6, 12:16, 12:16] = 1, 2
    predicted = truth.copy()
    predicted[predicted == 2] = 0
    predicted[2:6, 12:16, 13:17] = 2
    write(truth, tmp_path / "truth" / "a.nii.gz")
    write(truth, tmp_path / "truth" / "b.nii.gz")
    write(predicted, tmp_path / "found" / "a.nrrd")
    write((100 * truth).astype(np.int16) + np.arange(20, dtype=np.int16), tmp_path / "images" / "a.nii.gz")
    return tmp_path


def test_cases_are_compared_by_name_and_a_missing_one_is_said_at_the_end(cobot, folders):
    ended = cobot(
        "evaluate", folders / "found", folders / "truth", "--images", folders / "images", "-o", folders / "out"
    )
    assert ended.code == 1
    assert "1 of 2 failed:" in ended.err
    assert "has no mask of this name" in ended.err
    with (folders / "out" / "scores.csv").open(newline="", encoding="utf-8") as file:
        exact, moved = list(csv.DictReader(file))
    assert (exact["case"], exact["label"], float(exact["dice"]), float(exact["hausdorff95"])) == ("a", "1", 1.0, 0.0)
    assert float(moved["dice"]) == pytest.approx(0.75)
    assert float(moved["iou"]) == pytest.approx(0.6)
    assert float(moved["hausdorff95"]) == 1.0
    assert [path.name for path in sorted((folders / "out").glob("*.png"))] == ["overlay.png", "scores.png"]


def test_a_mask_on_another_grid_is_no_case_to_compare(cobot, folders):
    write(np.ones((8, 20, 19), dtype=np.uint8), folders / "found" / "b.nii.gz")
    ended = cobot("evaluate", folders / "found", folders / "truth", "-o", folders / "out")
    assert ended.code == 1
    assert "Resample the mask" in ended.err


def test_folders_without_masks_are_refused(cobot, tmp_path):
    ended = cobot("evaluate", tmp_path, tmp_path / "nowhere")
    assert ended.code == 1
    assert "there is no such folder" in ended.err
