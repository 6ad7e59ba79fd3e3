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


def test_the_case_that_is_compared_is_shown(cobot, folders, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    (folders / "truth" / "b.nii.gz").rename(folders / "truth" / "a [left].nii.gz")
    ended = cobot("evaluate", folders / "found", folders / "truth", "-o", folders / "out")
    assert ended.code == 1
    assert "a [left]" in ended.err
    assert "100%" in ended.err
    assert str(folders / "out" / "scores.csv") in ended.out


def test_an_image_on_another_grid_costs_its_picture_alone(cobot, folders):
    write(np.arange(1600, dtype=np.int16).reshape(4, 20, 20), folders / "images" / "a.nii.gz")
    (folders / "truth" / "b.nii.gz").unlink()
    ended = cobot(
        "evaluate", folders / "found", folders / "truth", "--images", folders / "images", "-o", folders / "out"
    )
    assert ended.code == 1
    assert "20 x 20 x 4" in ended.err
    assert len((folders / "out" / "scores.csv").read_text(encoding="utf-8").splitlines()) == 3
    assert not (folders / "out" / "overlay.png").exists()


def test_the_summary_has_the_means_of_each_label(cobot, folders):
    write(np.zeros((8, 20, 20), dtype=np.uint8), folders / "found" / "b.nrrd")
    ended = cobot("evaluate", folders / "found", folders / "truth", "-o", folders / "out", "--tolerance", 0.5)
    assert ended.code == 0, ended.err
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in ended.out.splitlines() if "│" in line]
    assert rows[0] == ["1", "2", "0.500", "0.500", "0.500", "0.000 (1 without)"]
    assert rows[1][:4] == ["2", "2", "0.375", "0.300"]
    assert 0 < float(rows[1][4]) < 0.5


def test_predictions_without_a_truth_are_named_and_two_of_one_case_refused(cobot, folders):
    (folders / "truth" / "b.nii.gz").rename(folders / "b.nii.gz")
    write(np.zeros((8, 20, 20), dtype=np.uint8), folders / "found" / "c.nii.gz")
    ended = cobot("evaluate", folders / "found", folders / "truth", "-o", folders / "out")
    assert ended.code == 0
    assert "Left out, for there is no true mask: c" in ended.err
    write(np.zeros((8, 20, 20), dtype=np.uint8), folders / "found" / "a.nii.gz")
    ended = cobot("evaluate", folders / "found", folders / "truth", "-o", folders / "out")
    assert ended.code == 1
    assert "are of one case" in ended.err


def test_a_mask_on_another_grid_is_no_case_to_compare(cobot, folders):
    write(np.ones((8, 20, 19), dtype=np.uint8), folders / "found" / "b.nii.gz")
    ended = cobot("evaluate", folders / "found", folders / "truth", "-o", folders / "out")
    assert ended.code == 1
    assert "Resample the mask" in ended.err


def test_folders_without_masks_are_refused(cobot, tmp_path):
    ended = cobot("evaluate", tmp_path, tmp_path / "nowhere")
    assert ended.code == 1
    assert "there is no such folder" in ended.err


def test_masks_in_subfolders_are_compared_and_the_summary_says_how_many_have_nothing(cobot, folders):
    for folder, ending in (("truth", ".nii.gz"), ("found", ".nrrd")):
        (folders / folder / "one").mkdir()
        (folders / folder / f"a{ending}").rename(folders / folder / "one" / f"a{ending}")
    write(np.zeros((8, 20, 20), dtype=np.uint8), folders / "found" / "b.nrrd")
    for _ in range(2):  # what the first wrote into the folder is no case of the second
        ended = cobot("evaluate", folders / "found", folders / "truth", "-o", folders / "found" / "out")
        assert (ended.code, ended.err.strip()) == (0, "")
    with (folders / "found" / "out" / "scores.csv").open(newline="", encoding="utf-8") as file:
        assert [row["case"] for row in csv.DictReader(file)] == ["b", "b", "one/a", "one/a"]
    with (folders / "found" / "out" / "summary.csv").open(newline="", encoding="utf-8") as file:
        first, second = list(csv.DictReader(file))
    assert [first[name] for name in ("label", "cases", "without_truth", "without_prediction")] == ["1", "2", "0", "1"]
    assert [float(first[f"dice_{name}"]) for name in ("mean", "sd", "median")] == [0.5, 0.7071, 0.5]
    assert (first["hausdorff95_mean"], first["hausdorff95_sd"], first["distance_unit"]) == ("0.0000", "nan", "mm")
    assert float(second["dice_mean"]) == pytest.approx(0.375)


def test_distances_in_pictures_are_pixels(cobot, tmp_path):
    truth, moved = np.zeros((20, 20), dtype=np.uint8), np.zeros((20, 20), dtype=np.uint8)
    truth[4:10, 4:10], moved[4:10, 7:13] = 255, 255
    for folder, mask in (("truth", truth), ("found", moved)):
        (tmp_path / folder).mkdir()
        sitk.WriteImage(sitk.GetImageFromArray(mask), str(tmp_path / folder / "a.png"))
    ended = cobot("evaluate", tmp_path / "found", tmp_path / "truth", "-o", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert "HD95 pixels" in ended.out
    with (tmp_path / "out" / "scores.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert (float(row["hausdorff95"]), row["distance_unit"]) == (3.0, "pixels")
