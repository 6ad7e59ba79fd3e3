import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from nibabel.orientations import aff2axcodes, apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from PIL import Image

from monai_cobot.data import mask_on_source_grid, read_mask, read_volume, volume_from_array, write_mask

ORIENTATIONS = ["LPS", "RAS", "LAS", "SPR", "IRA", "AIL", "PSR"]
LPS_AFFINE = np.array([[-2.0, 0, 0, 30], [0, -3.0, 0, -12], [0, 0, 4.0, 7], [0, 0, 0, 1]])


def lps_array() -> np.ndarray:
    return np.random.default_rng(0).integers(-900, 900, (5, 6, 7)).astype(np.int16)


def turned_to(array: np.ndarray, orientation: str, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    turn = ornt_transform(axcodes2ornt("LPS"), axcodes2ornt(orientation))
    return apply_orientation(array, turn), affine @ inv_ornt_aff(turn, array.shape)


def rotated(affine: np.ndarray, degrees: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn @ affine


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("oblique", [0, 20])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_any_orientation_of_any_format_is_read_into_one_frame(
    tmp_path: Path, orientation: str, oblique: float, suffix: str
) -> None:
    expected_affine = rotated(LPS_AFFINE, oblique)
    array, affine = turned_to(lps_array(), orientation, expected_affine)
    path = tmp_path / f"image{suffix}"
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "nifti.nii.gz")
    if suffix == ".nii.gz":
        path = tmp_path / "nifti.nii.gz"
    else:
        sitk.WriteImage(sitk.ReadImage(str(tmp_path / "nifti.nii.gz")), str(path))
    volume = read_volume(path)
    assert volume.array.dtype == np.int16
    assert (volume.array[0] == lps_array()).all()
    assert np.allclose(volume.affine, expected_affine, atol=1e-4)
    assert aff2axcodes(volume.affine) == ("L", "P", "S")
    assert volume.spacing == pytest.approx((2, 3, 4), abs=1e-4)
    assert volume.source_shape == array.shape


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_a_mask_returns_to_the_grid_of_its_file(tmp_path: Path, orientation: str, suffix: str) -> None:
    array, affine = turned_to(lps_array(), orientation, rotated(LPS_AFFINE, 11))
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "image.nii.gz")
    image = read_volume(tmp_path / "image.nii.gz")
    write_mask(image.array[0] > 0, image, tmp_path / f"mask{suffix}")
    mask = read_mask(tmp_path / f"mask{suffix}")
    assert mask.source_shape == array.shape
    assert np.allclose(mask.source_affine, affine, atol=1e-4)
    assert (mask.array[0] == (image.array[0] > 0)).all()
    if "nii" in suffix:
        written = nib.load(tmp_path / f"mask{suffix}")
        assert (np.asarray(written.dataobj) == (array > 0)).all()
        assert np.array_equal(written.affine, nib.load(tmp_path / "image.nii.gz").affine)


def test_a_picture_is_one_slice_with_columns_first(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "colours.png")
    volume = read_volume(tmp_path / "colours.png")
    assert volume.array.shape == (3, 6, 4, 1)
    assert (volume.array[:, 5, 1, 0] == pixels[1, 5]).all()
    write_mask(volume.array[0] > 100, volume, tmp_path / "mask.png")
    assert (np.asarray(Image.open(tmp_path / "mask.png")) == (pixels[:, :, 0] > 100) * 255).all()
    assert (read_mask(tmp_path / "mask.png").array[0] == (volume.array[0] > 100)).all()


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "P", "LA"])
def test_a_mask_picture_of_any_mode_is_0_and_1(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(np.eye(8, dtype=np.uint8) * 255)
    if mode == "P":
        picture = Image.fromarray(np.eye(8, dtype=np.uint8), mode="P")
        picture.putpalette([0, 0, 0, 10, 200, 30])
    else:
        picture = picture.convert(mode)
    picture.save(tmp_path / "mask.png")
    assert (read_mask(tmp_path / "mask.png").array[0, :, :, 0] == np.eye(8)).all()


def test_grey_saved_as_colour_is_read_as_grey(tmp_path: Path) -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(np.stack([grey] * 3, axis=-1)).save(tmp_path / "grey.png")
    assert (read_volume(tmp_path / "grey.png").array[0, :, :, 0] == grey.T).all()


def test_scaled_integers_and_wide_types_are_stored_small(tmp_path: Path) -> None:
    for dtype, kept in ((np.int32, np.int16), (np.uint16, np.int16), (np.float64, np.float32), (np.uint8, np.uint8)):
        nib.save(nib.Nifti1Image(np.arange(8).reshape(2, 2, 2).astype(dtype), np.eye(4)), tmp_path / "image.nii")
        # 0 to 7 fits uint8 whatever the type on disk
        expected = np.uint8 if np.issubdtype(dtype, np.integer) else kept
        assert read_volume(tmp_path / "image.nii").array.dtype == expected


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".jpg"])
def test_a_missing_file_is_named(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"absent{suffix}"):
        read_volume(tmp_path / f"absent{suffix}")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".jpg"])
@pytest.mark.parametrize("kept", [0, 10, 0.6])
def test_a_damaged_file_is_named_and_no_library_shows_through(tmp_path: Path, suffix: str, kept: float) -> None:
    array = np.random.default_rng(0).integers(0, 250, (30, 30, 20), dtype=np.uint8)
    path = tmp_path / f"image{suffix}"
    if suffix in (".png", ".jpg"):
        Image.fromarray(array[:, :, 0]).save(path)
    elif suffix.startswith(".nii"):
        nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept if kept != 0.6 else 0.6 * len(content))])
    with pytest.raises(ValueError, match=rf"image\{suffix}: .*damaged"):
        read_volume(path)


def test_a_picture_that_pillow_takes_for_an_attack_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 31)  # pictures of more than twice as many are refused
    with pytest.raises(ValueError, match=r"huge\.png: .*exceeds limit"):
        read_volume(tmp_path / "huge.png")


def test_several_volumes_in_a_file_are_refused(tmp_path: Path) -> None:
    series = np.random.default_rng(0).random((4, 4, 4, 3)).astype(np.float32)
    nib.save(nib.Nifti1Image(series, np.eye(4)), tmp_path / "series.nii.gz")
    with pytest.raises(ValueError, match=r"series\.nii\.gz: .*\(4, 4, 4, 3\).*one volume"):
        read_volume(tmp_path / "series.nii.gz")
    nib.save(nib.Nifti1Image(series[..., :1], np.eye(4)), tmp_path / "single.nii.gz")
    assert read_volume(tmp_path / "single.nii.gz").array.shape == (1, 4, 4, 4)


def test_colour_volumes_are_refused(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).integers(0, 255, (4, 5, 6, 3), dtype=np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(vectors, isVector=True), str(tmp_path / "colour.nrrd"))
    with pytest.raises(ValueError, match=r"colour\.nrrd: .*3 values a voxel"):
        read_volume(tmp_path / "colour.nrrd")
    coloured = np.zeros((4, 5, 6), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(coloured, np.eye(4)), tmp_path / "colour.nii.gz")
    with pytest.raises(ValueError, match=r"colour\.nii\.gz: .*colour"):
        read_volume(tmp_path / "colour.nii.gz")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_counted(tmp_path: Path, value: float) -> None:
    array = np.random.default_rng(0).random((4, 4, 4)).astype(np.float32)
    array[1, 2, :2] = value
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "image.nii.gz")
    with pytest.raises(ValueError, match="2 of 64 voxels"):
        read_volume(tmp_path / "image.nii.gz")


def test_a_constant_image_is_refused_but_an_empty_mask_is_not(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), dtype=np.uint8), np.eye(4)), tmp_path / "same.nii.gz")
    with pytest.raises(ValueError, match=r"same\.nii\.gz: every voxel is 0"):
        read_volume(tmp_path / "same.nii.gz")
    assert read_mask(tmp_path / "same.nii.gz").array.max() == 0


def test_an_image_taken_for_a_mask_is_refused(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(4, 4, 4)).astype(np.float32)
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "image.nii.gz")
    with pytest.raises(ValueError, match="whole numbers"):
        read_mask(tmp_path / "image.nii.gz")
    nib.save(nib.Nifti1Image(np.full((4, 4, 4), -3, dtype=np.int16), np.eye(4)), tmp_path / "image.nii.gz")
    with pytest.raises(ValueError, match="0 to 32767"):
        read_mask(tmp_path / "image.nii.gz")
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "mask.jpg")
    with pytest.raises(ValueError, match="PNG"):
        read_mask(tmp_path / "mask.jpg")


def test_an_unknown_format_names_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "image.tif").write_bytes(b"II*")
    with pytest.raises(ValueError, match=r"\.nii\.gz.*\.png"):
        read_volume(tmp_path / "image.tif")


def test_a_mask_that_does_not_fit_its_image_is_not_written(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(lps_array(), LPS_AFFINE), tmp_path / "image.nii.gz")
    image = read_volume(tmp_path / "image.nii.gz")
    mask = np.ones(image.array.shape[1:], dtype=np.uint8)
    for wrong, name in ((mask[:4], "m.nii.gz"), (mask * 0.5, "m.nii.gz"), (mask, "m.png"), (mask, "m.tif")):
        with pytest.raises(ValueError, match=r"m\."):
            write_mask(wrong, image, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["image.nii.gz"]


def test_a_write_that_fails_leaves_the_old_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nib.save(nib.Nifti1Image(lps_array(), LPS_AFFINE), tmp_path / "image.nii.gz")
    image = read_volume(tmp_path / "image.nii.gz")
    write_mask(image.array[0] > 0, image, tmp_path / "mask.nii.gz")
    before = (tmp_path / "mask.nii.gz").read_bytes()

    def full(_: object, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nib, "save", full)
    with pytest.raises(OSError, match="No space"):
        write_mask(image.array[0] > 5, image, tmp_path / "mask.nii.gz")
    assert (tmp_path / "mask.nii.gz").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_a_dicom_series_agrees_with_its_mask(shared_data: Path) -> None:
    volume = read_volume(shared_data / "Torso_CT_MR" / "dicom")
    mask = read_mask(shared_data / "Torso_CT_MR" / "example_seg_dicom.nii.gz")
    assert volume.array.shape == mask.array.shape == (1, 512, 512, 20)
    assert np.allclose(volume.affine, mask.affine, atol=1e-3)
    assert 50 < volume.array[mask.array == 5].mean() < 130  # HU of a liver with contrast


def test_dicom_folders_that_are_not_one_whole_series_are_refused(shared_data: Path, tmp_path: Path) -> None:
    slices = sorted((shared_data / "Torso_CT_MR" / "dicom").iterdir())
    with pytest.raises(ValueError, match="no DICOM"):
        read_volume(tmp_path)
    for n, path in enumerate(slices[:8]):
        if n != 4:
            shutil.copy(path, tmp_path)
    with pytest.raises(ValueError, match="not evenly spaced"):
        read_volume(tmp_path)


@pytest.mark.parametrize(("degrees", "refused"), [(0, False), (1, False), (15, True)])
def test_a_ct_with_a_tilted_gantry_is_refused(shared_data: Path, tmp_path: Path, degrees: float, refused: bool) -> None:
    for path in sorted((shared_data / "Torso_CT_MR" / "dicom").iterdir())[:4]:
        slice_ = pydicom.dcmread(path)
        x, y, z = slice_.ImagePositionPatient
        slice_.ImagePositionPatient = [x, y + z * np.tan(np.deg2rad(degrees)), z]
        slice_.save_as(tmp_path / path.name)
    if refused:
        with pytest.raises(ValueError, match=r"shifted.* gantry"):
            read_volume(tmp_path)
    else:
        assert read_volume(tmp_path).array.shape[3] == 4


def test_a_torso_lies_as_its_labels_say(shared_data: Path) -> None:
    mask = read_mask(shared_data / "Torso_CT_MR" / "example_seg_fast_force_split.nii.gz").array[0]
    middle = {name: np.argwhere(mask == value).mean(axis=0) for name, value in (("spleen", 1), ("liver", 5))}
    assert middle["spleen"][0] > middle["liver"][0]  # I grows to the patient's left
    vertebra = np.argwhere(mask == 31).mean(axis=0) if (mask == 31).any() else np.array([0, 99, 0])
    assert vertebra[1] > middle["liver"][1]  # J grows to posterior


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_an_array_in_memory_is_turned_as_its_file_would_be_and_masks_go_back_onto_its_grid(orientation, tmp_path):
    array, affine = turned_to(lps_array(), orientation, LPS_AFFINE)
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "image.nii.gz")
    volume, file = volume_from_array(array, affine), read_volume(tmp_path / "image.nii.gz")
    assert np.array_equal(volume.array, file.array)
    assert np.allclose(volume.affine, file.affine)
    assert np.array_equal(mask_on_source_grid(volume.array[0], volume), array)


@pytest.mark.parametrize(
    ("array", "affine", "message"),
    [
        (np.zeros((3, 4)), np.eye(4), r"three axes.*\(3, 4\)"),
        (np.zeros((3, 4, 5)), np.eye(3), r"affine has the shape \(4, 4\)"),
        (np.full((3, 4, 5), np.nan), np.eye(4), "NaN"),
        (np.zeros((3, 4, 5)), np.zeros((4, 4)), "not a rotation and a scale"),
    ],
)
def test_an_array_in_memory_is_checked(array, affine, message):
    with pytest.raises(ValueError, match=message):
        volume_from_array(array, affine)
