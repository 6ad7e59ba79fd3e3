import numpy as np
import pytest
import torch

from monai_cobot.transforms import SLICE_AXES, TakeSlice, TakeSliced
from monai_cobot.transforms.slices import place_slice, slices_of, take_slice, volume_from_slices

# (C, I, J, K): 2 channels, 3 to the left, 4 to posterior, 5 to superior
VOLUME = np.arange(120).reshape(2, 3, 4, 5)


@pytest.mark.parametrize(
    ("axis", "shape", "corner"),
    [
        ("axial", (2, 4, 3), (0, 0, 2)),  # top left is right and anterior
        ("coronal", (2, 5, 3), (0, 2, 4)),  # top left is right and superior
        ("sagittal", (2, 5, 4), (2, 0, 4)),  # top left is anterior and superior
    ],
)
def test_a_slice_is_seen_as_a_radiologist_sees_it(axis: str, shape: tuple, corner: tuple) -> None:
    seen = take_slice(VOLUME, axis, 2)
    assert seen.shape == shape
    assert seen[1, 0, 0] == VOLUME[(1, *corner)]


def test_down_and_right_are_the_directions_that_the_axes_promise() -> None:
    i, j, k = np.meshgrid(range(3), range(4), range(5), indexing="ij")
    ends = {"axial": (j, i), "coronal": (-k, i), "sagittal": (-k, j)}
    for axis, (down, right) in ends.items():
        assert (np.diff(take_slice(down[None], axis, 1), axis=1) == 1).all()
        assert (np.diff(take_slice(right[None], axis, 1), axis=2) == 1).all()


@pytest.mark.parametrize("as_type", [np.asarray, torch.as_tensor])
@pytest.mark.parametrize("axis", SLICE_AXES)
def test_slices_put_back_give_the_volume(axis: str, as_type: type) -> None:
    volume = as_type(VOLUME)
    slices = slices_of(volume, axis)
    assert (volume_from_slices(slices, axis) == volume).all()
    empty = as_type(np.zeros_like(VOLUME))
    for index in range(len(slices)):
        assert (take_slice(volume, axis, index) == slices[index]).all()
        place_slice(empty, slices[index], axis, index)
    assert (empty == volume).all()


def test_a_slice_outside_the_volume_is_refused() -> None:
    for index in (-1, 5):
        with pytest.raises(ValueError, match="slices 0 to 4"):
            take_slice(VOLUME, "axial", index)


def test_wrong_axes_and_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="axial, coronal, sagittal"):
        TakeSlice("oblique")
    with pytest.raises(ValueError, match=r"\(C, I, J, K\)"):
        take_slice(VOLUME[0], "axial", 0)
    with pytest.raises(ValueError, match="does not fit"):
        place_slice(np.zeros_like(VOLUME), np.zeros((2, 5, 4)), "axial", 0)


def test_the_dictionary_transform_reads_the_index_from_the_sample() -> None:
    result = TakeSliced(["image", "label"], "coronal")({"image": VOLUME, "label": VOLUME[:1], "slice": 3})
    assert (result["image"] == take_slice(VOLUME, "coronal", 3)).all()
    assert result["label"].shape == (1, 5, 3)
    assert (TakeSlice("coronal", 3)(VOLUME) == result["image"]).all()
