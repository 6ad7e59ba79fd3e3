import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_cobot.data import MaskFile, read_layout
from monai_cobot.data.layouts import discover_labels
from tests.data.conftest import Write, case_arrays


def test_the_decathlon_layout_is_read_with_its_list_labels_and_modality(write_msd: Write) -> None:
    root = write_msd({"a": case_arrays(), "b": case_arrays()})
    folder = read_layout(root, ["msd"])
    assert [case.name for case in folder.cases] == ["a", "b"]
    assert folder.cases[0].image == root / "imagesTr/a.nii.gz"
    assert folder.cases[0].masks == (MaskFile(root / "labelsTr/a.nii.gz"),)
    assert folder.cases[0].patient == "a"
    assert folder.cases[0].split is None
    assert folder.labels == {"block": 1, "pair": 2}
    assert folder.modality == "CT"


@pytest.mark.parametrize(
    "labels", [{"1": "block", "0": "background"}, {"background": 0, "block": 1}, ["block"], ["background", "block"]]
)
def test_labels_are_understood_in_every_form(write_msd: Write, labels: object) -> None:
    assert read_layout(write_msd({"a": case_arrays()}, labels=labels), ["msd"]).labels == {"block": 1}


def test_a_list_of_validation_cases_is_the_split(write_msd: Write) -> None:
    entry = {"image": "imagesTr/b.nii.gz", "label": "labelsTr/b.nii.gz"}
    root = write_msd({"a": case_arrays()}, validation=[entry])
    assert [(case.name, case.split) for case in read_layout(root, ["msd"]).cases] == [
        ("a", "training"),
        ("b", "validation"),
    ]


def test_pairs_of_files_need_no_description(write_nifti: Write, tmp_path: Path) -> None:
    image, labels = case_arrays()
    for name in ("imagesTr/x_0000.nii.gz", "imagesTr/x_0001.nii.gz", "imagesTr/lonely_0000.nii.gz"):
        write_nifti(name, image)
    for name in ("labelsTr/x.nii.gz", "labelsTr/other.nii.gz"):
        write_nifti(name, labels)
    folder = read_layout(tmp_path, ["msd"])
    assert [(case.name, case.image.name, case.split) for case in folder.cases] == [("x", "x_0000.nii.gz", None)]
    assert discover_labels(folder.cases) == {"label 1": 1, "label 2": 2}
    write_nifti("imagesVal/y.nii.gz", image)
    assert [case.split for case in read_layout(tmp_path, ["msd"]).cases] == [None]  # images without masks are no split
    write_nifti("labelsVal/y.nii.gz", labels)
    assert [case.split for case in read_layout(tmp_path, ["msd"]).cases] == ["training", "validation"]


def test_a_list_of_nnu_net_finds_first_channels(write_nifti: Write, tmp_path: Path) -> None:
    image, labels = case_arrays()
    write_nifti("imagesTr/x_0000.nii.gz", image)
    write_nifti("labelsTr/x.nii.gz", labels)
    content = {"training": [{"image": "./imagesTr/x.nii.gz", "label": "./labelsTr/x.nii.gz"}]}
    (tmp_path / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    (case,) = read_layout(tmp_path, ["msd"]).cases
    assert (case.name, case.image) == ("x", tmp_path / "imagesTr" / "x_0000.nii.gz")


def test_busi_masks_find_their_image(tmp_path: Path) -> None:
    for name in ("benign (10)", "benign (10)_mask", "benign (2)", "benign (2)_mask", "benign (2)_mask_1"):
        (tmp_path / "benign").mkdir(exist_ok=True)
        Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(tmp_path / "benign" / f"{name}.png")
    cases = read_layout(tmp_path, ["busi"]).cases
    assert [case.name for case in cases] == ["benign (2)", "benign (10)"]
    assert [(mask.path.name, mask.value) for mask in cases[0].masks] == [
        ("benign (2)_mask.png", 1),
        ("benign (2)_mask_1.png", 1),
    ]


def test_abdomen_ct_1k_images_find_their_mask_in_another_folder(write_nifti: Write, tmp_path: Path) -> None:
    image, labels = case_arrays()
    for name in ("Part1/Case_00001_0000", "Part2/Case_00403_0000", "Part3/Case_00900_0000"):
        write_nifti(f"{name}.nii.gz", image)
    for name in ("Mask/Case_00001", "Mask/Case_00403"):
        write_nifti(f"{name}.nii.gz", labels)
    cases = read_layout(tmp_path, ["abdomen_ct_1k", "msd"]).cases
    assert [(case.name, case.image.parent.name) for case in cases] == [("Case_00001", "Part1"), ("Case_00403", "Part2")]
    assert cases[1].masks[0].path == tmp_path / "Mask/Case_00403.nii.gz"


def test_a_folder_a_case_has_a_file_a_structure(write_nifti: Write, tmp_path: Path) -> None:
    image, labels = case_arrays()
    for case, structures in (("segrap_0000", ("Brain", "Eye_L")), ("segrap_0001", ("BrainStem", "Eye_L"))):
        for name in ("image", "image_contrast", *structures):
            write_nifti(f"{case}/{name}.nii.gz", image if name.startswith("image") else labels)
    folder = read_layout(tmp_path, ["case_folders"])
    assert folder.labels == {"Brain": 1, "BrainStem": 2, "Eye_L": 3}
    assert [[mask.value for mask in case.masks] for case in folder.cases] == [[1, 3], [2, 3]]
    assert folder.cases[1].image == tmp_path / "segrap_0001/image.nii.gz"


def test_a_data_list_says_patient_name_and_several_masks(tmp_path: Path) -> None:
    content = {
        "training": [{"image": "ct.nii.gz", "label": ["a.nii.gz", "b.nii.gz"], "patient": "p1", "name": "first"}],
        "validation": [{"image": "sub/mr.nrrd", "label": "c.nrrd"}],
        "labels": {"tumour": 4},
        "modality": "MRI",
    }
    path = tmp_path / "list.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    for given in (path, tmp_path):
        folder = read_layout(given, ["msd", "data_list"])
        first, second = folder.cases
        assert (first.name, first.patient, first.split) == ("first", "p1", "training")
        assert [mask.path for mask in first.masks] == [tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"]
        assert (second.name, second.patient, second.image) == ("mr", "mr", tmp_path / "sub/mr.nrrd")
        assert folder.labels == {"tumour": 4}


def test_listed_images_of_the_same_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    images = ["p1/ct.nii.gz", "p2/ct.mha", "p3/scan.nii.gz"]
    content = {"training": [{"image": image, "label": "mask.nii.gz"} for image in images]}
    (tmp_path / "list.json").write_text(json.dumps(content), encoding="utf-8")
    cases = read_layout(tmp_path, ["data_list"]).cases
    assert [case.name for case in cases] == [case.patient for case in cases] == ["p1_ct", "p2_ct", "scan"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "valid JSON"),
        ("[]", "JSON object"),
        ('{"training": [{"image": "a.nii.gz"}]}', 'no "image" or no "label"'),
        ('{"training": [{"image": "a.nii", "label": "b.nii"}], "labels": {"liver": "one"}}', "whole number"),
        ('{"training": [{"image": "a.nii", "label": "b.nii"}], "labels": 3}', '"labels" must be'),
        ('{"training": 5}', '"training" must be a list'),
        ('{"training": [{"image": 3, "label": 4}]}', "names no files"),
        (
            '{"training": [{"image": "x/a.nii", "label": "b"}, {"image": "x/a.nii", "label": "b"}]}',
            'same name: x_a\\. .*"name"',
        ),
    ],
)
def test_a_list_that_cannot_be_understood_is_named(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "dataset.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=said) as error:
        read_layout(tmp_path, ["msd"])
    assert str(tmp_path) in str(error.value)


def test_a_list_written_on_windows_is_read(tmp_path: Path) -> None:
    content = r'{"modality": ["CT"], "training": [{"image": ".\\imagesTr\\a.nii", "label": "labelsTr\\a.nii"}]}'
    (tmp_path / "dataset.json").write_text(content, encoding="utf-8-sig")
    folder = read_layout(tmp_path, ["msd"])
    assert folder.modality == "CT"
    assert [case.name for case in folder.cases] == ["a"]
    assert folder.cases[0].image == tmp_path / "imagesTr" / "a.nii"
    assert folder.cases[0].masks[0].path == tmp_path / "labelsTr" / "a.nii"


def test_a_folder_in_another_layout_is_told_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"(?s)case_folders: One folder a case.*msd: The Medical Segmentation Decathlon"
    ):
        read_layout(tmp_path, ["case_folders", "msd"])
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "labelsTr").mkdir()
    with pytest.raises(ValueError, match="no case"):
        read_layout(tmp_path, ["msd"])
    with pytest.raises(FileNotFoundError, match="absent"):
        read_layout(tmp_path / "absent", ["msd"])


def test_two_cases_of_one_name_in_folders_are_refused(tmp_path: Path, write_nifti: Write) -> None:
    image, labels = case_arrays()
    for folder in ("benign", "malignant"):
        (tmp_path / "busi" / folder).mkdir(parents=True)
        for name in ("case (1).png", "case (1)_mask.png"):
            Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "busi" / folder / name)
    for folder, array in (("imagesTr", image), ("labelsTr", labels)):
        (tmp_path / "pairs" / folder).mkdir(parents=True)
        write_nifti(tmp_path / "pairs" / folder / "a.nii.gz", array)
    write_nifti(tmp_path / "pairs" / "imagesTr" / "a_0000.nii.gz", image)  # nnU-Net's name of the same case
    for folder, name in (("busi", r"case \(1\)"), ("pairs", "a")):
        with pytest.raises(ValueError, match=f"several cases have the same name: {name}"):
            read_layout(tmp_path / folder, ["msd", "busi"])
