import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image

from monai_cobot.data import PHANTOM_LABELS, SliceDataset, cases_of, open_dataset, read_mask, read_volume
from monai_cobot.errors import root_cause
from monai_cobot.networks import PromptableSam, build_sam
from monai_cobot.peft import load_adapter
from monai_cobot.transforms import box_from_mask, place_slice, take_slice
from tests.bundles.conftest import BrightInBox, Run

BRIGHT = {"network": BrightInBox(), "preset": "window:0,1000"}


def oblique_affine() -> np.ndarray:
    """Anisotropic, axes permuted and partly flipped, 15 degrees off."""
    angle = np.deg2rad(15)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    axes = np.array([[0, 0, 1.5], [0.8, 0, 0], [0, -2.5, 0]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ axes
    affine[:3, 3] = (12, -30, 7)
    return affine


def ball(shape: tuple[int, ...], centre: tuple[float, ...], radius: float) -> np.ndarray:
    grid = np.indices(shape) - np.array(centre).reshape(-1, *[1] * len(shape))
    return (grid**2).sum(axis=0) < radius**2


def bright_where(truth: np.ndarray) -> np.ndarray:
    """Bright objects in dark noise, with another bright thing in a corner that no box holds."""
    image = np.random.default_rng(0).integers(0, 300, truth.shape).astype(np.int16)
    image[truth > 0] += 600
    image[tuple(slice(0, 2) for _ in truth.shape)] = 900
    return image


def entries(image: str, mask: Path, axis: str, label: int = 1) -> list[dict[str, object]]:
    """A box around the label in each slice that shows it."""
    volume = (read_mask(mask).array == label).astype(np.uint8)
    count = {"axial": volume.shape[3], "coronal": volume.shape[2], "sagittal": volume.shape[1]}[axis]
    slices = ((index, take_slice(volume, axis, index)) for index in range(count))
    return [
        {"image": image, "slice": index, "box": box_from_mask(shown).tolist(), "label": label, "axis": axis}
        for index, shown in slices
        if shown.any()
    ]


def write_prompts(path: Path, content: object) -> str:
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def test_an_adapters_masks_are_written_on_the_grids_of_the_files(
    run: Run, phantom: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(
        "inference",
        dataset_dir=str(phantom),
        adapter_dir=str(trained / "best"),
        part="all",
        batch_size=7,
        output_dir=str(tmp_path),
    )
    assert f"masks written to {tmp_path}: 4" in capsys.readouterr().out
    sam = build_sam("vit_mini", image_size=64)
    load_adapter(sam, trained / "best")
    network = PromptableSam(sam)
    split = open_dataset("phantom", phantom)
    for case in cases_of(split, "all"):
        image, written = nib.load(case.image), nib.load(tmp_path / case.image.name)
        assert written.shape == image.shape
        assert np.allclose(written.affine, image.affine)
        # the same slices one by one, the first label keeping what a later one wants too
        slices = SliceDataset([case], split.labels, split.preset, min_foreground=1, progress=False)
        expected = np.zeros((1, *read_volume(case.image).array.shape[1:]), dtype=np.uint8)
        for name, value in PHANTOM_LABELS.items():
            for sample in (slices[n] for n in range(len(slices)) if slices.labels_of(n) == [name]):
                with torch.no_grad():
                    mask = network(sample["image"][None], sample["box"][None])[0].numpy() > 0
                plane = take_slice(expected, "axial", sample["slice"]).copy()
                plane[mask & (plane == 0)] = value
                place_slice(expected, plane, "axial", sample["slice"])
        predicted = read_mask(tmp_path / case.image.name).array
        assert predicted.any()
        assert (predicted != expected).mean() < 1e-3  # batches round differently where a logit is about 0


def test_prompts_on_oblique_volumes_give_masks_where_the_truth_is(run: Run, tmp_path: Path) -> None:
    truth = (ball((20, 14, 26), (8, 7, 10), 5) + 2 * ball((20, 14, 26), (14, 7, 19), 4)).astype(np.uint8)
    for name, array in (("scan", bright_where(truth)), ("truth", truth)):
        nib.save(nib.Nifti1Image(array, oblique_affine()), tmp_path / f"{name}.nii.gz")
    for axis in ("axial", "coronal", "sagittal"):
        listed = [entry for label in (1, 2) for entry in entries("scan.nii.gz", tmp_path / "truth.nii.gz", axis, label)]
        prompts = write_prompts(tmp_path / f"{axis}.json", listed)
        run("inference", prompts=prompts, output_dir=str(tmp_path / axis), **BRIGHT)
        written = nib.load(tmp_path / axis / "scan.nii.gz")
        assert np.allclose(written.affine, oblique_affine(), atol=1e-5)
        assert (np.asarray(written.dataobj) == truth).all()


def test_formats_are_kept_and_folders_mirrored(run: Run, tmp_path: Path) -> None:
    truth = ball((12, 16, 20), (6, 8, 11), 4).astype(np.uint8)
    for folder in ("patient1", "patient2"):
        (tmp_path / folder).mkdir()
        for name, array in (("scan", bright_where(truth)), ("truth", truth)):
            image = sitk.GetImageFromArray(array)
            image.SetSpacing((0.7, 0.9, 3.0))
            image.SetDirection((0, 1, 0, 0, 0, -1, -1, 0, 0))
            sitk.WriteImage(image, str(tmp_path / folder / f"{name}.nrrd"))
    listed = entries("patient1/scan.nrrd", tmp_path / "patient1" / "truth.nrrd", "coronal")
    listed += entries("patient2/scan.nrrd", tmp_path / "patient2" / "truth.nrrd", "axial")
    run("inference", prompts=write_prompts(tmp_path / "p.json", listed), output_dir=str(tmp_path / "out"), **BRIGHT)
    for folder in ("patient1", "patient2"):
        written, image = (sitk.ReadImage(str(root / folder / "scan.nrrd")) for root in (tmp_path / "out", tmp_path))
        assert np.allclose(written.GetDirection(), image.GetDirection())
        assert written.GetOrigin() == image.GetOrigin()
        assert (sitk.GetArrayFromImage(written) == truth).all()


def test_a_picture_gets_a_picture_of_its_mask(run: Run, tmp_path: Path) -> None:
    truth = ball((70, 100), (40, 30), 12)
    pixels = np.where(truth, 220, 40).astype(np.uint8)
    pixels[:8, 90:] = 250  # a caption outside the box
    Image.fromarray(np.stack([pixels] * 3, axis=-1)).save(tmp_path / "benign (1).png")
    listed = [{"image": "benign (1).png", "slice": 0, "box": [18, 28, 43, 53], "label": 1}]
    prompts = write_prompts(tmp_path / "p.json", listed)
    run("inference", prompts=prompts, output_dir=str(tmp_path / "out"), network=BrightInBox(), preset="ultrasound")
    assert (np.asarray(Image.open(tmp_path / "out" / "benign (1).png")) == truth * 255).all()


def test_ultrasound_pictures_of_a_data_set_get_masks_of_their_size_in_the_boxes_of_the_truth(
    run: Run, shared_data: Path, tmp_path: Path
) -> None:
    options = {"dataset": "brast", "dataset_dir": str(shared_data / "Dataset_BUSI_with_GT"), "max_cases": 4}
    run("inference", part="all", components=True, output_dir=str(tmp_path), network=BrightInBox(), **options)
    split = open_dataset("brast", options["dataset_dir"], max_cases=4)
    for case in cases_of(split, "all"):
        truth = np.maximum.reduce([np.asarray(Image.open(mask.path).convert("L")) for mask in case.masks])
        written = np.asarray(Image.open(tmp_path / case.image.name))
        bright = np.asarray(Image.open(case.image).convert("L")) > 128
        rows, columns = np.flatnonzero(truth.any(axis=1)), np.flatnonzero(truth.any(axis=0))
        inside = np.zeros_like(bright)
        inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
        assert written.shape == truth.shape
        assert not written[~inside].any()
        assert (written[truth > 0] > 0)[bright[truth > 0]].mean() > 0.99


def test_a_box_of_null_is_the_whole_slice_and_the_first_label_keeps_a_voxel(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = np.full((10, 12, 3), 900, dtype=np.int16)
    image[0] = 0
    nib.save(nib.Nifti1Image(image, np.diag([-1, -1, 1, 1])), tmp_path / "a.nii.gz")
    listed = [
        {"image": "a.nii.gz", "slice": 1, "box": [2, 0, 5, 12], "label": 300},
        {"image": "a.nii.gz", "slice": 1, "box": None, "label": 2},
    ]
    run("inference", prompts=write_prompts(tmp_path / "p.json", listed), output_dir=str(tmp_path / "out"), **BRIGHT)
    written = np.asarray(nib.load(tmp_path / "out" / "a.nii.gz").dataobj)
    assert (written[2:5, :, 1] == 300).all()
    assert (written[[1, 5, 6, 7, 8, 9], :, 1] == 2).all()
    assert not written[0].any()
    assert not written[:, :, [0, 2]].any()
    assert "a: 36 voxels" in capsys.readouterr().out


@pytest.mark.parametrize("workers", [0, 1])
def test_images_that_cannot_be_used_are_reported_and_the_others_written(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    truth = ball((12, 12, 4), (6, 6, 2), 3).astype(np.uint8)
    for name in ("good", "outside", "high"):
        nib.save(nib.Nifti1Image(bright_where(truth), np.diag([-1, -1, 1, 1])), tmp_path / f"{name}.nii.gz")
    (tmp_path / "damaged.nii.gz").write_bytes(b"no volume")
    box = [2, 2, 10, 10]
    listed = [
        {"image": "damaged.nii.gz", "slice": 0, "box": box, "label": 1},
        {"image": "absent.nii.gz", "slice": 0, "box": box, "label": 1},
        {"image": "outside.nii.gz", "slice": 2, "box": [12, 2, 15, 9], "label": 1},
        {"image": "high.nii.gz", "slice": 4, "box": box, "label": 1},
        {"image": "good.nii.gz", "slice": 2, "box": box, "label": 1},
    ]
    prompts = write_prompts(tmp_path / "p.json", listed)
    run("inference", prompts=prompts, output_dir=str(tmp_path / "out"), num_workers=workers, **BRIGHT)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.nii.gz"]
    printed = capsys.readouterr().out
    assert f"masks written to {tmp_path / 'out'}: 1" in printed
    for said in ("damaged.nii.gz: the file cannot be read", "absent.nii.gz: there is no such", "entry 2", "entry 3"):
        assert said in printed


def test_a_folder_of_images_is_segmented_slice_by_slice_where_no_box_is_known(run: Run, tmp_path: Path) -> None:
    truth = ball((12, 14, 5), (6, 7, 2), 4).astype(np.uint8)
    (tmp_path / "in" / "b").mkdir(parents=True)
    nib.save(nib.Nifti1Image(bright_where(truth), np.diag([-1, -1, 2, 1])), tmp_path / "in" / "a.nii.gz")
    Image.fromarray(np.where(truth[..., 2], 220, 10).astype(np.uint8)).save(tmp_path / "in" / "b" / "c.png")
    (tmp_path / "in" / "damaged.nii.gz").write_bytes(b"no volume")
    run(
        "inference", input=str(tmp_path / "in"), output_dir=str(tmp_path / "out"), **BRIGHT | {"preset": "window:0,300"}
    )
    written = nib.load(tmp_path / "out" / "a.nii.gz")
    assert np.allclose(written.affine, np.diag([-1, -1, 2, 1]))
    assert (np.asarray(written.dataobj) == (bright_where(truth) > 150)).all()
    assert (np.asarray(Image.open(tmp_path / "out" / "b" / "c.png")) == truth[..., 2] * 255).all()
    assert len([path for path in (tmp_path / "out").rglob("*") if path.is_file()]) == 2


@pytest.mark.parametrize("given", ["a folder of masks", "a data list", "a CSV"])
def test_boxes_come_from_masks_beside_a_list_or_a_table(run: Run, tmp_path: Path, given: str) -> None:
    truth = (ball((20, 14, 26), (8, 7, 10), 5) + 2 * ball((20, 14, 26), (14, 7, 19), 4)).astype(np.uint8)
    for folder, name, array in (("in", "scan.nii.gz", bright_where(truth)), ("masks", "scan_seg.nii.gz", truth)):
        (tmp_path / folder).mkdir()
        nib.save(nib.Nifti1Image(array, oblique_affine()), tmp_path / folder / name)
    options = {"input": str(tmp_path / "in")}
    if given == "a folder of masks":
        options["prompts"] = str(tmp_path / "masks")
    elif given == "a data list":
        listed = [{"image": "in\\scan.nii.gz", "label": "masks/scan_seg.nii.gz"}]
        (tmp_path / "list.json").write_text(json.dumps({"testing": listed}), encoding="utf-8")
        options["input"] = str(tmp_path / "list.json")
    else:
        boxes = [
            entry
            for label in (1, 2)
            for entry in entries("scan.nii.gz", tmp_path / "masks" / "scan_seg.nii.gz", "coronal", label)
        ]
        rows = [[e["image"], e["slice"], *e["box"], e["label"], e["axis"]] for e in boxes]
        lines = ["image;slice;x0;y0;x1;y1;label;axis", *(";".join(map(str, row)) for row in rows)]
        (tmp_path / "boxes.csv").write_text("\n".join(lines), encoding="utf-8")
        options["prompts"] = str(tmp_path / "boxes.csv")
    run("inference", output_dir=str(tmp_path / "out"), **BRIGHT, **options)
    written = nib.load(tmp_path / "out" / "scan.nii.gz")
    assert np.allclose(written.affine, oblique_affine(), atol=1e-5)
    assert (np.asarray(written.dataobj) == truth).all()


def test_a_label_is_refused_where_the_masks_say_which_there_are(run: Run, tmp_path: Path) -> None:
    options = {"input": str(tmp_path), "output_dir": str(tmp_path / "out"), "label": "liver"}
    with pytest.raises(RuntimeError) as raised:
        run("inference", **options, **BRIGHT)
    assert str(root_cause(raised.value)).startswith("label is 'liver', but with input or prompts")


def test_a_mask_never_takes_the_place_of_a_file_that_is_read(run: Run, phantom: Path) -> None:
    before = {path: path.read_bytes() for path in phantom.rglob("*.nii.gz")}
    for folder in ("imagesTr", "labelsTr"):
        with pytest.raises(RuntimeError) as raised:
            run("inference", dataset_dir=str(phantom), output_dir=str(phantom / folder), **BRIGHT)
        assert "would replace this file" in str(root_cause(raised.value))
    assert {path: path.read_bytes() for path in phantom.rglob("*.nii.gz")} == before


def test_the_command_ends_with_the_reason_where_no_mask_can_be_written(configs: Path, tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(bright_where(np.zeros((8, 8, 2))), np.eye(4)), tmp_path / "a.nii.gz")
    prompts = write_prompts(tmp_path / "p.json", [{"image": "a.nii.gz", "slice": 9, "box": None, "label": 1}])
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(configs / "inference.json")]
    command += ["--prompts", prompts, "--preset", "ct_abdomen", "--output_dir", str(tmp_path / "out")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", check=False)
    assert ended.returncode == 1
    assert "p.json: entry 0: axial slice 9 is outside" in ended.stderr.strip().splitlines()[-2]
