from pathlib import Path

import numpy as np
import pytest

from monai_cobot.data import Case, CaseError, MaskFile, load_case
from monai_cobot.transforms.slices import SLICE_AXES, slices_of
from tests.data.conftest import Write, case_arrays


def case(image: Path, *masks: MaskFile) -> Case:
    return Case("one", image, masks, "one")


def test_a_label_map_and_single_masks_are_read_onto_the_image(write_nifti: Write) -> None:
    image, labels = case_arrays()
    path = write_nifti("image.nii.gz", image)
    as_map = load_case(case(path, MaskFile(write_nifti("labels.nii.gz", labels))))
    singles = [MaskFile(write_nifti(f"m{v}.nii.gz", (labels == v) * np.uint8(7)), v) for v in (1, 2)]
    as_singles = load_case(case(path, *singles))
    for loaded in (as_map, as_singles):
        assert loaded.label_maps.shape == (1, 40, 30, 6)
        assert list(loaded.areas("axial")) == [1, 2]
        assert (loaded.mask(2) == (labels == 2)).all()
        assert (loaded.image.array[0] == image).all()


def test_structures_that_overlap_stay_whole(write_nifti: Write) -> None:
    image, labels = case_arrays()
    whole, part = (labels > 0).astype(np.uint8), (labels == 1).astype(np.uint8)
    loaded = load_case(
        case(
            write_nifti("image.nii.gz", image),
            MaskFile(write_nifti("whole.nii.gz", whole), 300),
            MaskFile(write_nifti("part.nii.gz", part), 4),
        )
    )
    assert (loaded.mask(300) == (whole == 1)).all()
    assert (loaded.mask(4) == (part == 1)).all()
    assert list(loaded.areas("axial")) == [4, 300]


def test_masks_of_one_label_are_put_together(write_nifti: Write) -> None:
    image, labels = case_arrays()
    masks = [MaskFile(write_nifti(f"m{v}.nii.gz", (labels == v).astype(np.uint8)), 1) for v in (1, 2)]
    loaded = load_case(case(write_nifti("image.nii.gz", image), *masks))
    assert len(loaded.label_maps) == 1
    assert (loaded.mask(1) == (labels > 0)).all()


@pytest.mark.parametrize("axis", SLICE_AXES)
def test_areas_count_the_pixels_of_each_label_in_each_slice_once(write_nifti: Write, axis: str) -> None:
    image, labels = case_arrays()
    moved = np.where(labels > 0, labels, np.roll(labels, 8, axis=0))  # label 1 here and there in the place of the first
    moved[5:9] = 2
    files = [
        MaskFile(write_nifti(f"m{n}.nii.gz", array))
        for n, array in enumerate((labels, moved, moved % 2 * np.int16(300)))
    ]
    loaded = load_case(case(write_nifti("image.nii.gz", image), *files))
    assert len(loaded.label_maps) == 3
    areas = loaded.areas(axis)
    assert list(areas) == [1, 2, 300]
    for value, counted in areas.items():
        assert counted.tolist() == slices_of(loaded.mask(value)[None], axis).sum(axis=(1, 2, 3)).tolist()


def test_masks_that_are_not_asked_for_are_not_read(write_nifti: Write, tmp_path: Path) -> None:
    image, labels = case_arrays()
    masks = (MaskFile(tmp_path / "absent.nii.gz", 8), MaskFile(write_nifti("m.nii.gz", labels), 1))
    loaded = load_case(case(write_nifti("image.nii.gz", image), *masks), [1])
    assert list(loaded.areas("axial")) == [1]


def test_a_mask_in_another_orientation_of_the_same_place_fits(write_nifti: Write) -> None:
    image, labels = case_arrays()
    flipped = np.diag([1.0, -1, 2, 1])
    flipped[0, 3] = -39  # the first voxel of the flipped axis is the last of the other
    loaded = load_case(
        case(write_nifti("image.nii.gz", image), MaskFile(write_nifti("m.nii.gz", labels[::-1], flipped)))
    )
    assert (loaded.mask(1) == (labels == 1)).all()


def test_an_affine_that_differs_by_rounding_fits(write_nifti: Write) -> None:
    image, labels = case_arrays()
    almost = np.diag([-1.0005, -1, 2, 1])
    load_case(case(write_nifti("image.nii.gz", image), MaskFile(write_nifti("m.nii.gz", labels, almost))))


@pytest.mark.parametrize(
    ("affine", "shape", "said"),
    [
        (None, (40, 30, 5), "40 x 30 x 5 voxels.*40 x 30 x 6"),
        (np.diag([-1.0, -1, 2.5, 1]), (40, 30, 6), r"2\.50 mm away"),
        (np.array([[-1.0, 0, 0, 3], [0, -1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]), (40, 30, 6), r"3\.00 mm away"),
    ],
)
def test_a_mask_on_another_grid_is_refused(
    write_nifti: Write, affine: np.ndarray | None, shape: tuple[int, int, int], said: str
) -> None:
    image, _ = case_arrays()
    _, labels = case_arrays(shape)
    mask = write_nifti("mask.nii.gz", labels, affine)
    with pytest.raises(CaseError, match=f"case one: .*mask.nii.gz: .*{said}"):
        load_case(case(write_nifti("image.nii.gz", image), MaskFile(mask)))


def test_what_is_wrong_with_a_file_names_the_case(write_nifti: Write, tmp_path: Path) -> None:
    image, labels = case_arrays()
    path = write_nifti("image.nii.gz", image)
    with pytest.raises(CaseError, match=r"case one: .*absent\.nii\.gz: there is no such file"):
        load_case(case(path, MaskFile(tmp_path / "absent.nii.gz")))
    mask = write_nifti("mask.nii.gz", labels)
    mask.write_bytes(mask.read_bytes()[:100])
    with pytest.raises(CaseError, match=r"case one: .*mask\.nii\.gz: .*damaged"):
        load_case(case(path, MaskFile(mask)))
