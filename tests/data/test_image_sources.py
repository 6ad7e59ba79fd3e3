import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_cobot.data import MaskPrompts, WholeSlicePrompts, open_images
from tests.data.conftest import Write, case_arrays


@pytest.fixture
def root(tmp_path: Path, write_nifti: Write) -> Path:
    for name in ("a.nii.gz", "b/a.nii.gz", ".hidden.nii.gz", ".half_written/c.nii.gz"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        write_nifti(tmp_path / "in" / name, case_arrays()[0])
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "in" / "notes.PNG")
    (tmp_path / "in" / "readme.txt").write_text("no image", encoding="utf-8")
    return tmp_path


def test_a_folder_gives_every_image_below_it_with_the_whole_of_every_slice(root: Path) -> None:
    sources = open_images(root / "in", axis="coronal", labels={"liver": 4})
    assert [source.name for source in sources] == ["a", "b/a", "notes"]
    assert all(isinstance(source, WholeSlicePrompts) for source in sources)
    volume, prompts = sources[0].load()
    assert [prompt.slice for prompt in prompts] == list(range(volume.array.shape[2]))
    assert {(prompt.box, prompt.label, prompt.axis) for prompt in prompts} == {(None, 4, "coronal")}
    assert {prompt.label for prompt in open_images(root / "in", labels={"a": 3, "b": 4})[0].load()[1]} == {1}


def test_one_image_is_enough(root: Path) -> None:
    (source,) = open_images(root / "in" / "a.nii.gz")
    assert (source.name, source.image) == ("a", root / "in" / "a.nii.gz")


def test_slices_of_a_dicom_series_are_one_image(shared_data: Path, tmp_path: Path) -> None:
    shutil.copytree(shared_data / "Torso_CT_MR" / "dicom", tmp_path / "in" / "series")  # files without an ending
    (tmp_path / "in" / "DICOMDIR").write_bytes(bytes(128) + b"DICM")  # the table of contents of a disc
    (source,) = open_images(tmp_path / "in")
    assert source.image == tmp_path / "in" / "series"
    assert len(source.load()[1]) == 20


def test_masks_in_a_folder_find_their_images_and_a_missing_one_costs_only_its_image(
    root: Path, write_nifti: Write
) -> None:
    (root / "masks" / "b").mkdir(parents=True)
    write_nifti(root / "masks" / "b" / "a_mask.nii.gz", case_arrays()[1])
    sources = open_images(root / "in", root / "masks")
    assert all(isinstance(source, MaskPrompts) for source in sources)
    assert {prompt.label for prompt in sources[1].load()[1]} == {1, 2}
    with pytest.raises(ValueError, match=r"a\.nii\.gz: there is no such file"):
        sources[0].load()
    shutil.rmtree(root / "masks" / "b")
    with pytest.raises(ValueError, match="none of the images finds its mask"):
        open_images(root / "in", root / "masks")


def test_masks_are_found_in_the_folders_of_their_images_also_where_there_is_only_one(
    root: Path, write_nifti: Write
) -> None:
    (root / "in" / "a.nii.gz").unlink()
    (root / "in" / "notes.PNG").unlink()
    (root / "masks" / "b").mkdir(parents=True)
    write_nifti(root / "masks" / "b" / "a.nii.gz", case_arrays()[1])
    (source,) = open_images(root / "in", root / "masks")
    assert source.name == "a"
    assert root / "masks" / "b" / "a.nii.gz" in source.files


def test_a_data_list_names_images_with_masks_and_without(root: Path, write_nifti: Write) -> None:
    write_nifti(root / "mask.nii.gz", case_arrays()[1])
    content = {
        "training": [{"image": "in/a.nii.gz", "label": "mask.nii.gz"}],
        "testing": ["in\\b\\a.nii.gz", {"image": "in/notes.PNG"}],
    }
    (root / "list.json").write_text(json.dumps(content), encoding="utf-8")
    sources = open_images(root / "list.json")
    assert [(type(source).__name__, source.name) for source in sources] == [
        ("MaskPrompts", "a"),
        ("WholeSlicePrompts", "b/a"),
        ("WholeSlicePrompts", "notes"),
    ]
    assert root / "mask.nii.gz" in sources[0].files


def test_listed_boxes_may_be_relative_to_the_folder_of_the_images(root: Path) -> None:
    (root / "boxes").mkdir()
    entry = {"image": "b/a.nii.gz", "slice": 0, "box": None, "label": 1}
    (root / "boxes" / "p.json").write_text(json.dumps([entry]), encoding="utf-8")
    (source,) = open_images(root / "in", root / "boxes" / "p.json")
    assert source.image == root / "in" / "b" / "a.nii.gz"


@pytest.mark.parametrize(
    ("images", "prompts", "said"),
    [
        ("missing", None, "no such file or folder"),
        ("empty", None, "no image is there"),
        (None, "empty", "name their folder too"),
        ("list.json", None, "not valid JSON"),
        ("numbers.json", None, "not 3"),
        ("object.json", None, "a list of images is expected"),
        ("in", "missing.csv", "no such file"),
        ("in/a.nii.gz", "boxes.csv", "lists its images itself"),
        ("missing", "boxes.csv", "lists its images itself"),
        ("twice.json", None, "in/a.nii.gz is listed twice"),
    ],
)
def test_what_cannot_be_used_is_named(root: Path, images: str | None, prompts: str | None, said: str) -> None:
    (root / "empty").mkdir()
    (root / "list.json").write_text("[", encoding="utf-8")
    (root / "numbers.json").write_text("[3]", encoding="utf-8")
    (root / "object.json").write_text('{"testing": "a.nii.gz"}', encoding="utf-8")
    entry = {"image": "in/a.nii.gz", "label": "mask.nii.gz"}
    (root / "twice.json").write_text(json.dumps([entry, entry]), encoding="utf-8")
    with pytest.raises((ValueError, OSError), match=said):
        open_images(images and root / images, prompts and root / prompts)
