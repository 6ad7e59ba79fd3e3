import json

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch
from rich.progress import Progress

from monai_cobot.cli.prompts import BoxOn, PointOn, parse_box, parse_point
from monai_cobot.data import read_mask, read_volume
from monai_cobot.inferers import AdapterShelf, EndRules, Point, Region, VolumeSession
from monai_cobot.networks import build_sam
from monai_cobot.peft import load_adapter, save_adapter

BOX = "6:4,9,20,21"


@pytest.fixture
def series(ball, tmp_path):
    """The ball as a folder with a DICOM series."""
    folder = tmp_path / "series"
    folder.mkdir()
    volume = sitk.GetImageFromArray(ball)
    volume.SetSpacing((1.5, 1.5, 3.0))
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    common = {
        "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
        "0008|0020": "20200101",
        "0008|0030": "120000",
        "0008|0060": "CT",
        "0010|0010": "Ball^Bright",
        "0010|0020": "1",
        "0010|0030": "",
        "0010|0040": "O",
        "0008|0050": "",
        "0020|000d": "1.2.826.0.1.3680043.2.1125.1.1",
        "0020|000e": "1.2.826.0.1.3680043.2.1125.1.2",
        "0020|0052": "1.2.826.0.1.3680043.2.1125.1.3",
        "0020|0010": "1",
        "0020|0011": "1",
        "0020|0037": "1\\0\\0\\0\\1\\0",
    }
    for index in range(volume.GetDepth()):
        plane = volume[:, :, index]
        for tag, value in common.items():
            plane.SetMetaData(tag, value)
        plane.SetMetaData("0008|0018", f"1.2.826.0.1.3680043.2.1125.1.4.{index + 1}")
        plane.SetMetaData("0020|0032", f"0\\0\\{3 * index}")
        plane.SetMetaData("0020|0013", str(index + 1))
        writer.SetFileName(str(folder / f"{index:02}.dcm"))
        writer.Execute(plane)
    return folder


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("37:1,2,3.5,4", BoxOn(37, (1, 2, 3.5, 4))),
        ("1,2,3,4", BoxOn(None, (1, 2, 3, 4))),
        ("1,2,3,4,5,6", BoxOn(None, (1, 2, 3, 4, 5, 6))),
    ],
)
def test_boxes_are_read_as_they_are_written(text, expected):
    assert parse_box(text) == expected


@pytest.mark.parametrize("text", ["", "1,2,3", "a:1,2,3,4", "3:1,2,3,4,5,6", "1,2,3,x", "1,2,inf,4", "0,0,0,nan,5,5"])
def test_what_is_no_box_is_refused_with_the_three_ways_to_write_one(text):
    with pytest.raises(ValueError, match="SLICE:x0,y0,x1,y1"):
        parse_box(text)


def test_points_are_read_as_they_are_written():
    assert parse_point("37:1,2.5", inside=True) == PointOn(37, 1, 2.5, True)
    assert parse_point("1,2", inside=False) == PointOn(None, 1, 2, False)
    for text in ("", "1", "1,2,3", "a:1,2"):
        with pytest.raises(ValueError, match="SLICE:x,y"):
            parse_point(text, inside=True)


def test_points_correct_the_box_on_their_slice_and_stand_alone_elsewhere(cobot, image, adapter_folder, tmp_path):
    points = ["--point", "6:12,15", "--point-outside", "6:5,10", "--point", "8:12.5,14"]
    common = ["--adapter", adapter_folder, "--no-propagate", "-o", tmp_path / "mask.nrrd"]
    ended = cobot("segment", image, "--box", BOX, *points, *common)
    assert ended.code == 0, ended.err
    model = AdapterShelf(build_sam("vit_mini", image_size=64)).load(adapter_folder)
    session = VolumeSession(image, model, look_ahead=False)
    session.segment_slice("axial", 6, (4, 9, 20, 21), [Point(12, 15), Point(5, 10, inside=False)], 1)
    session.segment_slice("axial", 8, None, [Point(12.5, 14)], 2)
    written = read_mask(tmp_path / "mask.nrrd").array[0]
    assert np.array_equal(written.astype(bool), session.lps_mask(1) | session.lps_mask(2))
    assert written[:, :, 8].any()


def test_a_volume_is_segmented_from_one_point(cobot, image, adapter_folder, tmp_path):
    ended = cobot("segment", image, "--point", "6:12,15", "--adapter", adapter_folder, "-o", tmp_path / "mask.nrrd")
    assert ended.code == 0, ended.err
    model = AdapterShelf(build_sam("vit_mini", image_size=64)).load(adapter_folder)
    session = VolumeSession(image, model, look_ahead=False)
    session.segment_slice("axial", 6, None, [Point(12, 15)])
    session.propagate("axial")
    written = read_mask(tmp_path / "mask.nrrd").array[0]
    assert np.array_equal(written.astype(bool), session.lps_mask(1))
    assert written.any(axis=(0, 1)).sum() > 1


def test_a_point_corrects_the_object_of_a_3d_box(cobot, image, adapter_folder, tmp_path):
    common = ["segment", image, "--box", "4,9,3,20,21,9", "--adapter", adapter_folder]
    for name, more in (("plain", []), ("corrected", ["--point-outside", "6:18,10"])):
        ended = cobot(*common, *more, "-o", tmp_path / f"{name}.nrrd")
        assert ended.code == 0, ended.err
    plain, corrected = (read_mask(tmp_path / f"{name}.nrrd").array[0] for name in ("plain", "corrected"))
    assert np.array_equal(np.delete(plain, 6, axis=2), np.delete(corrected, 6, axis=2))
    assert not np.array_equal(plain[:, :, 6], corrected[:, :, 6])


def test_the_backend_can_be_chosen(cobot, image, adapter_folder, tmp_path):
    pytest.importorskip("openvino", reason='needs the extra "openvino"')
    common = ["segment", image, "--box", BOX, "--adapter", adapter_folder]
    for name in ("eager", "openvino"):
        ended = cobot(*common, "--backend", name, "-o", tmp_path / f"{name}.nrrd")
        assert ended.code == 0, ended.err
    masks = [read_mask(tmp_path / f"{name}.nrrd").array for name in ("eager", "openvino")]
    assert (masks[0] != masks[1]).mean() < 1e-3
    ended = cobot(*common, "--backend", "fast", "-o", tmp_path / "mask.nrrd")
    assert ended.code == 2
    assert "expected one of auto, eager, compile, openvino" in " ".join(ended.err.split())


def test_the_precision_reaches_the_network(cobot, image, tmp_path):
    ended = cobot("segment", image, "--box", BOX, "--precision", "bfloat16", "-o", tmp_path / "mask.nrrd")
    assert ended.code == 0, ended.err
    ended = cobot("segment", image, "--box", BOX, "--precision", "half", "-o", tmp_path / "mask.nrrd")
    assert ended.code == 1
    assert "expected one of auto, float32, bfloat16" in " ".join(ended.err.split())


def test_a_mask_is_the_one_of_the_session_on_the_images_grid(cobot, image, adapter_folder, tmp_path):
    ended = cobot(
        "segment", image, "--box", BOX, "--adapter", adapter_folder, "-o", tmp_path / "mask.nrrd", "--label", 7
    )
    assert (ended.code, ended.out) == (0, f"{tmp_path / 'mask.nrrd'}\n"), ended.err
    model = AdapterShelf(build_sam("vit_mini", image_size=64)).load(adapter_folder)
    session = VolumeSession(image, model, look_ahead=False)
    session.propagate("axial", {6: (4, 9, 20, 21)})
    written = read_mask(tmp_path / "mask.nrrd")
    assert np.array_equal(written.array[0], 7 * session.lps_mask(1))
    assert np.allclose(written.affine, session.volume.affine)
    assert written.array.any()


@pytest.mark.parametrize(("chosen", "expected"), [(["--axis", "sagittal"], "sagittal"), ([], "coronal")])
def test_slices_are_those_of_the_axis_that_is_named_or_else_of_the_adapters(
    cobot, image, adapter_folder, tmp_path, chosen, expected
):
    sam = build_sam("vit_mini", image_size=64)
    coronal = save_adapter(load_adapter(sam, adapter_folder), tmp_path / "coronal", details={"axis": "coronal"})
    box = {"coronal": (4, 2, 20, 10), "sagittal": (9, 2, 21, 10)}[expected]
    written_box = f"14:{','.join(map(str, box))}"
    common = ["--adapter", coronal, "--preset", "mr", "--no-propagate", "-o", tmp_path / "mask.nrrd"]
    ended = cobot("segment", image, "--box", written_box, *common, *chosen)
    assert ended.code == 0, ended.err
    model = AdapterShelf(build_sam("vit_mini", image_size=64)).load(coronal)
    session = VolumeSession(image, model, "mr", look_ahead=False)
    session.segment_slice(expected, 14, box)
    assert session.lps_mask(1).any()
    assert np.array_equal(read_mask(tmp_path / "mask.nrrd").array[0], session.lps_mask(1))


def test_boxes_on_two_slices_are_joined_and_go_on_as_far_as_they_may(cobot, image, adapter_folder, tmp_path):
    boxes = ["--box", "5:4,9,20,21", "--box", "8:6,9,18,20"]
    model = AdapterShelf(build_sam("vit_mini", image_size=64)).load(adapter_folder)
    for reach, more in ((1.0, []), (0.0, ["--max-reach", 0])):
        ended = cobot("segment", image, *boxes, *more, "--adapter", adapter_folder, "-o", tmp_path / "mask.nrrd")
        assert ended.code == 0, ended.err
        session = VolumeSession(image, model, look_ahead=False)
        drawn = {5: (4, 9, 20, 21), 8: (6, 9, 18, 20)}
        shown = session.propagate("axial", drawn, rules=EndRules(max_reach=reach))
        assert {5, 6, 7, 8} <= set(shown)
        assert np.array_equal(read_mask(tmp_path / "mask.nrrd").array[0], session.lps_mask(1))
    assert shown == range(5, 9)


def test_images_of_one_name_in_several_folders_keep_their_folders(cobot, image, tmp_path):
    copies = [tmp_path / "all" / patient / "ct.nii.gz" for patient in ("one", "two")]
    for copy in copies:
        copy.parent.mkdir(parents=True)
        copy.write_bytes(image.read_bytes())
    common = ["--box", BOX, "--image-size", 64, "--no-propagate", "-o", tmp_path / "masks"]
    ended = cobot("segment", *copies, *common)
    assert ended.code == 0, ended.err
    written = [tmp_path / "masks" / patient / "ct.nii.gz" for patient in ("one", "two")]
    assert ended.out.split() == [str(path) for path in written]
    assert all(read_mask(path).array.any() for path in written)
    twin = tmp_path / "all" / "one" / "ct.nrrd"
    sitk.WriteImage(sitk.ReadImage(str(image)), str(twin))
    ended = cobot("segment", copies[0], twin, *common)
    assert ended.code == 1
    assert "one at a time" in ended.err


def test_the_image_that_is_worked_on_is_shown_whatever_its_name(cobot, image, tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    steps, update = [], Progress.update
    monkeypatch.setattr(Progress, "update", lambda *of, **told: (steps.append(told), update(*of, **told)))
    named = image.rename(tmp_path / "scan [best] [ct].nii.gz")
    ended = cobot("segment", named, "--box", BOX, "--image-size", 64, "-o", tmp_path / "mask.nrrd")
    assert ended.code == 0, ended.err
    assert "scan [best] [ct].nii.gz" in ended.err
    assert len(steps) > 2
    assert steps[-1]["completed"] == steps[-1]["total"]
    assert ended.out == f"{tmp_path / 'mask.nrrd'}\n"


def test_embeddings_are_kept_where_that_is_asked_for(cobot, image, tmp_path):
    common = ["segment", image, "--box", BOX, "--image-size", 64, "--no-propagate", "-o", tmp_path / "mask.nrrd"]
    assert cobot(*common, "--cache-dir", tmp_path / "cache").code == 0
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 1


def test_a_3d_box_stands_in_voxels_of_the_file(cobot, image, tmp_path):
    ended = cobot(
        "segment", image, "--box", "4,9,3,20,21,9", "-o", tmp_path / "mask.nii.gz", "--image-size", 64, "--preset", "mr"
    )
    assert ended.code == 0, ended.err
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "mask.nii.gz"))).T
    assert mask.any()
    outside = mask.copy()
    outside[Region((4, 9, 3), (20, 21, 9)).slices] = 0
    assert not outside.any()


def test_a_batch_goes_on_past_a_bad_case_and_says_at_the_end_what_failed(cobot, image, tmp_path):
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"nothing")
    ended = cobot("segment", bad, image, "--box", BOX, "-o", tmp_path / "masks", "--image-size", 64, "--no-propagate")
    assert ended.code == 1
    assert (tmp_path / "masks" / "ball.nii.gz").is_file()
    assert not (tmp_path / "masks" / "bad.nii.gz").exists()
    assert "1 of 2 failed:" in ended.err
    assert "damaged" in ended.err


def test_no_kind_of_error_ends_a_batch(cobot, image, tmp_path, monkeypatch):
    other = tmp_path / "other.nii.gz"
    other.write_bytes(image.read_bytes())
    propagate = VolumeSession.propagate

    def out_of_memory(self, *arguments, **options):
        if self.volume.path == image:
            raise RuntimeError("not enough memory: you tried to allocate 9 bytes")
        return propagate(self, *arguments, **options)

    monkeypatch.setattr(VolumeSession, "propagate", out_of_memory)
    ended = cobot("segment", image, other, "--box", BOX, "-o", tmp_path / "masks", "--image-size", 64)
    assert ended.code == 1
    assert (tmp_path / "masks" / "other.nii.gz").is_file()
    assert "1 of 2 failed:" in ended.err
    assert "not enough memory" in ended.err


def test_the_axes_can_be_fused(cobot, image, adapter_folder, tmp_path):
    for name, more in (("one", []), ("three", ["--fuse"])):
        ended = cobot(
            "segment", image, "--box", BOX, "--adapter", adapter_folder, "-o", tmp_path / f"{name}.nrrd", *more
        )
        assert ended.code == 0, ended.err
    one, three = (read_mask(tmp_path / f"{name}.nrrd").array for name in ("one", "three"))
    assert three.any()
    assert not np.array_equal(one, three)


def test_an_image_is_never_replaced_by_its_mask(cobot, image):
    before = image.read_bytes()
    ended = cobot("segment", image, "--box", BOX, "-o", image, "--image-size", 64)
    assert ended.code == 1
    assert "would replace the image" in ended.err
    assert image.read_bytes() == before


def test_listed_prompts_of_several_labels(cobot, image, tmp_path):
    entries = [
        {"image": "ball.nii.gz", "slice": 6, "box": [4, 9, 20, 21], "label": 2},
        {"image": "ball.nii.gz", "slice": 2, "box": [2, 2, 12, 12], "label": 5},
    ]
    (tmp_path / "prompts.json").write_text(json.dumps(entries), encoding="utf-8")
    ended = cobot(
        "segment",
        "--prompts",
        tmp_path / "prompts.json",
        "-o",
        tmp_path / "masks",
        "--image-size",
        64,
        "--no-propagate",
    )
    assert ended.code == 0, ended.err
    mask = read_mask(tmp_path / "masks" / "ball.nii.gz").array[0]
    assert set(np.unique(mask[:, :, 6])) == {0, 2}
    assert set(np.unique(mask[:, :, 2])) <= {0, 5}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "give images with --box"),
        (["IMAGE"], 2, "give images with --box"),
        (["IMAGE", "--box", "4,9,20,21"], 1, "belongs to a slice of this volume"),
        (["IMAGE", "--point", "4,9"], 1, "belongs to a slice of this volume"),
        (["IMAGE", "--point-outside", "6:4,9"], 1, "at least one point inside"),
        (["IMAGE", "--prompts", "list.json", "--point", "6:4,9"], 2, "--prompts FILE alone"),
        (["IMAGE", "--box", BOX, "--box", "6:1,1,9,9", "--point", "6:4,9"], 1, "may belong to either"),
        (["IMAGE", "--box", BOX, "--box", "6:1,1,9,9"], 1, "two boxes of label 1 on one slice"),
        (["IMAGE", "--box", "4,9,3,20,21,9", "--box", BOX, "--point", "6:4,9"], 1, "give one box alone"),
        (["IMAGE", "--box", "99:4,9,20,21"], 1, "slice 99 is outside"),
        (["IMAGE", "--box", BOX, "--sam-variant", "vit_b"], 1, "--sam-checkpoint"),
        (["IMAGE", "IMAGE", "--box", BOX, "-o", "one.nii.gz"], 2, "name a folder"),
        (["IMAGE", "--box", BOX, "--format", "jpg"], 2, "masks are written as"),
        (["IMAGE", "--box", BOX, "-o", "mask.jpg"], 2, "not as .jpg"),
        (["IMAGE", "--box", BOX, "--device", "quantum"], 2, "this device cannot be used here"),
        (["IMAGE", "--box", "1,2,3"], 2, "Invalid value for --box: '1,2,3' is no box"),
        (["IMAGE", "--point", "1"], 2, "Invalid value for --point: '1' is no point"),
        (["IMAGE", "--point", "6:4,9", "--point-outside", "x"], 2, "Invalid value for --point-outside"),
        (["IMAGE", "--box", BOX, "--axis", "oblique"], 2, "expected one of axial, coronal, sagittal"),
        (["IMAGE", "--box", BOX, "--backend", "fast"], 2, "expected one of auto, eager"),
        (["IMAGE", "--box", BOX, "--preset", "xray"], 2, "Invalid value for --preset"),
    ],
)
def test_wrong_command_lines_say_what_to_do(cobot, image, tmp_path, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    ended = cobot("segment", *(image if part == "IMAGE" else part for part in arguments))
    assert ended.code == code
    assert message in " ".join(ended.err.replace("│", " ").split())


def test_wrong_values_of_options_are_said_before_a_model_is_loaded(cobot, image, monkeypatch):
    def no_model(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("monai_cobot.cli.segment.open_model", no_model)
    for option, value in (
        ("--axis", "oblique"),
        ("--backend", "fast"),
        ("--device", "quantum"),
        ("--format", "jpg"),
        ("--preset", "xray"),
    ):
        assert cobot("segment", image, "--box", BOX, option, value).code == 2


@pytest.mark.parametrize(
    ("option", "value", "trained"),
    [("--image-size", "1024", "64"), ("--image-size", "0", "64"), ("--sam-variant", "vit_b", "vit_mini")],
)
def test_a_sam_that_the_adapter_was_not_trained_on_is_refused_by_the_options_name(
    cobot, image, adapter_folder, tmp_path, option, value, trained
):
    common = ["--adapter", adapter_folder, "-o", tmp_path / "mask.nrrd"]
    ended = cobot("segment", image, "--box", BOX, *common, option, value)
    assert ended.code == 2
    said = " ".join(ended.err.replace("│", " ").split())
    assert (
        f"Invalid value for {option}: the adapter was trained with {trained}, not {value}: leave {option} out." in said
    )


def test_the_sam_of_the_adapter_may_be_named(cobot, image, adapter_folder, tmp_path):
    named = ["--adapter", adapter_folder, "--image-size", 64, "--sam-variant", "vit_mini"]
    ended = cobot("segment", image, "--box", BOX, *named, "--no-propagate", "-o", tmp_path / "mask.nrrd")
    assert ended.code == 0, ended.err


@pytest.mark.parametrize(
    ("box", "place"),
    [
        ("4,9,3,20,21,9", "in the 3D box 4,9,3,20,21,9"),
        (BOX, "in the box 4,9,20,21 on axial slice 6"),
    ],
)
def test_a_box_in_which_nothing_is_found_is_named(cobot, image, tmp_path, monkeypatch, box, place):
    build = AdapterShelf.__init__

    def finds_nothing(self, sam, *arguments, **options):
        for mlp in sam.mask_decoder.output_hypernetworks_mlps:  # every logit is then 0, which is no foreground
            torch.nn.init.zeros_(mlp.layers[-1].weight)
            torch.nn.init.zeros_(mlp.layers[-1].bias)
        build(self, sam, *arguments, **options)

    monkeypatch.setattr(AdapterShelf, "__init__", finds_nothing)
    common = ["--image-size", 64, "--no-propagate", "--label", 3, "-o", tmp_path / "mask.nrrd"]
    ended = cobot("segment", image, "--box", box, *common)
    assert ended.code == 0, ended.err
    assert not read_mask(tmp_path / "mask.nrrd").array.any()
    assert f"{image}: nothing was found of label 3, {place}." in ended.err


def test_a_nrrd_image_gives_the_mask_of_the_same_nifti_image(cobot, image, adapter_folder, tmp_path):
    nrrd = tmp_path / "same.nrrd"
    sitk.WriteImage(sitk.ReadImage(str(image)), str(nrrd))
    ended = cobot("segment", image, nrrd, "--box", BOX, "--adapter", adapter_folder, "-o", tmp_path / "masks")
    assert (ended.code, ended.err.strip()) == (0, "")
    of_nifti, of_nrrd = (read_mask(tmp_path / "masks" / f"{name}.nii.gz") for name in ("ball", "same"))
    assert of_nifti.array.any()
    assert np.array_equal(of_nifti.array, of_nrrd.array)
    assert np.allclose(of_nifti.affine, of_nrrd.affine)


def test_a_dicom_series_gives_a_dicom_segmentation_that_refers_to_it(cobot, series, tmp_path):
    pytest.importorskip("highdicom", reason='DICOM SEG needs the extra "dicom"')
    common = ["segment", series, "--box", BOX, "--image-size", 64, "--label", 3, "--preset", "mr"]
    for name in ("mask.dcm", "mask.nii.gz"):
        ended = cobot(*common, "-o", tmp_path / name)
        assert ended.code == 0, ended.err
    segmentation = pydicom.dcmread(tmp_path / "mask.dcm")
    assert segmentation.SOPClassUID == pydicom.uid.SegmentationStorage
    assert segmentation.PatientID == "1"
    assert [item.SegmentLabel for item in segmentation.SegmentSequence] == ["label 3"]
    positions = [
        float(frame.PlanePositionSequence[0].ImagePositionPatient[2])
        for frame in segmentation.PerFrameFunctionalGroupsSequence
    ]
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "mask.nii.gz")))  # (K, J, I)
    volume = read_volume(series)
    assert volume.spacing == (1.5, 1.5, 3.0)
    found = np.zeros(expected.shape, dtype=bool)
    for position, plane in zip(positions, np.atleast_3d(segmentation.pixel_array), strict=True):
        found[round(position / 3)] = plane > 0
    assert found.any()
    assert np.array_equal(found, expected == 3)


def test_dicom_segmentations_belong_to_dicom_series(cobot, image, tmp_path):
    pytest.importorskip("highdicom", reason='DICOM SEG needs the extra "dicom"')
    ended = cobot("segment", image, "--box", BOX, "--image-size", 64, "-o", tmp_path / "mask.dcm")
    assert ended.code == 1
    assert "Choose .nii.gz instead" in ended.err
