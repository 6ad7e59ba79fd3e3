from collections.abc import Iterator

import numpy as np
import pytest

from monai_cobot.data import volume_from_array
from monai_cobot.inferers import AdapterShelf, Point, Region, VolumeSession, VoxelPrompt, segment_prompt
from monai_cobot.label.prompts import read_prompt

SHAPE = (30, 28, 12)
BOX = Region((4, 9, 6), (21, 22, 7))


@pytest.fixture(scope="module")
def session(shelf: AdapterShelf) -> Iterator[VolumeSession]:
    """The ball in a file whose axes run to the right, the front and the feet."""
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    ball = (((grid - (12, 15, 6)) / (8, 6, 4)) ** 2).sum(-1) < 1
    array = np.where(ball, 150, -20).astype(np.int16)
    affine = np.diag([2.0, 2.0, -3.0, 1.0])
    with VolumeSession(volume_from_array(array, affine), shelf.base, "window:-100,200", look_ahead=False) as session:
        yield session


def test_a_box_in_a_slice_is_read_with_six_numbers_or_four():
    six = read_prompt({"slice": 6, "slice_axis": 2, "box": [4, 9, 6, 21, 22, 7]}, SHAPE)
    assert six == VoxelPrompt(2, 6, BOX)
    assert read_prompt({"slice": 6, "box": [4, 9, 21, 22]}, SHAPE) == six
    assert read_prompt({"slice": 5, "slice_axis": 0, "box": [9, 2, 22, 7]}, SHAPE).box == Region((5, 9, 2), (6, 22, 7))


def test_a_roi_is_read_in_slicers_order_with_swapped_ends_and_in_cvats():
    slicer = read_prompt({"roi": [21, 4, 9, 22, 8, 3]}, SHAPE)
    assert slicer.box == Region((4, 9, 3), (21, 22, 8))
    assert slicer.index is None
    assert read_prompt({"roi": [4, 9, 21, 22]}, (30, 28, 1)) == VoxelPrompt(2, 0, Region((4, 9, 0), (21, 22, 1)))


def test_the_slice_of_a_roi_that_is_an_offset_in_millimetres_gives_way_to_its_middle():
    for offset in (260, 11, 0):
        prompt = read_prompt({"roi": [4, 21, 9, 22, 4, 8], "slice": offset}, SHAPE, in_slices=True)
        assert prompt == VoxelPrompt(2, 6, BOX)
    assert read_prompt({"roi": [4, 21, 9, 22, 4, 8], "slice": 5}, SHAPE, in_slices=True).index == 5


def test_a_3d_box_and_points_stay_3d_where_no_slice_is_said():
    prompt = read_prompt({"box": [4, 9, 3, 21, 22, 8], "background": [[5, 10, 4]], "slice": None}, SHAPE)
    assert prompt == VoxelPrompt(None, None, Region((4, 9, 3), (21, 22, 8)), background=((5, 10, 4),))
    assert read_prompt({"foreground": [[12, 15, 6]], "slice": -1, "roi": []}, SHAPE).index is None


def test_points_without_a_slice_are_in_the_slice_that_was_clicked_last_of_a_model_of_slices():
    params = {"foreground": [[9, 9, 4], [12, 15, 6], [13, 15, 6]], "background": [[2, 2, 6], [2, 2, 1]]}
    prompt = read_prompt(params, SHAPE, in_slices=True)
    assert prompt == VoxelPrompt(2, 6, None, ((12, 15, 6), (13, 15, 6)), ((2, 2, 6),))


def test_boxes_are_read_for_propagation():
    prompt = read_prompt({"boxes": [[4, 9, 5, 21, 22, 6], [4, 9, 7, 21, 22, 8]], "reach": 0, "slice_axis": 2}, SHAPE)
    assert [box.low[2] for box in prompt.boxes] == [5, 7]
    assert prompt.reach == 0
    counted = read_prompt({"boxes": [[4, 9, 5, 21, 22, 6]], "reach": 2.0}, SHAPE)
    assert (counted.reach, type(counted.reach)) == (2, int), "JSON of some clients has no whole numbers"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "neither a box"),
        ({"background": [[1, 1, 1]]}, "neither a box"),
        ({"slice": 12, "foreground": [[1, 1, 1]]}, "slice 12 is outside the image, which has 12"),
        ({"slice": 5, "foreground": [[1, 1, 1]]}, "none of the foreground points is in slice 5"),
        ({"slice": 5, "box": [4, 9, 6, 21, 22, 7]}, "slice 5 is not in the box"),
        ({"slice": 1.5, "box": [4, 9, 6, 21]}, "a whole number"),
        ({"slice_axis": 3, "box": [4, 9, 6, 21, 22, 7]}, "slice_axis is 3"),
        ({"box": [4, 9, 21, 22]}, "say which, as slice"),
        ({"box": [4, 9, 6, 21, 22]}, "5 numbers"),
        ({"box": [4, 9, 6, 4, 22, 7]}, "empty or inverted"),
        ({"box": [40, 9, 6, 50, 22, 7]}, "outside the volume"),
        ({"box": "all"}, "a list is expected"),
        ({"box": [4, 9, 6, 21, 22, None]}, "no number"),
        ({"box": [4, 9, 6, 21, 22, float("nan")]}, "no number"),
        ({"foreground": [[1, 1, 40]]}, "outside the image"),
        ({"foreground": [[1, 1]]}, "is no point"),
        ({"boxes": [[4, 9, 5, 21, 22, 8]]}, "one voxel thick"),
        ({"boxes": [[4, 9, 5, 21, 22, 6]] * 2}, "on one slice"),
        ({"boxes": [[4, 9, 5, 21, 22, 6]], "reach": -1}, "reach is -1"),
        ({"boxes": [[4, 9, 5, 21, 22, 6]], "reach": 1.5}, "a whole number"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(params, message):
    with pytest.raises(ValueError, match=message):
        read_prompt(params, SHAPE)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_box_in_a_slice_of_any_axis_of_the_file_is_that_slice_and_box_of_the_session(session, axis):
    low, high = [4, 9, 3], [21, 22, 8]
    low[axis], high[axis] = 6 + 4 * (axis < 2), 7 + 4 * (axis < 2)
    segment_prompt(session, read_prompt({"slice": low[axis], "slice_axis": axis, "box": [*low, *high]}, SHAPE), 1)
    found = session.mask(1)
    session.remove(1)
    present = np.flatnonzero(found.any(axis=tuple(n for n in range(3) if n != axis)))
    assert present.tolist() == [low[axis]]
    # the file runs to the right, the front and the feet: LPS runs against each of its axes
    i0, i1, j0, j1, k0, k1 = 30 - high[0], 30 - low[0], 28 - high[1], 28 - low[1], 12 - high[2], 12 - low[2]
    box = {2: (i0, j0, i1, j1), 1: (i0, 12 - k1, i1, 12 - k0), 0: (j0, 12 - k1, j1, 12 - k0)}[axis]
    index = {2: k0, 1: j0, 0: i0}[axis]
    session.segment_slice({2: "axial", 1: "coronal", 0: "sagittal"}[axis], index, box)
    assert (session.mask(1) == found).all()
    session.remove(1)


def test_a_point_is_the_middle_of_its_voxel(session):
    segment_prompt(session, read_prompt({"slice": 6, "foreground": [[12, 15, 6]], "background": [[2, 2, 6]]}, SHAPE), 1)
    found = session.mask(1)
    session.remove(1)
    session.segment_slice("axial", 5, None, [Point(17.5, 12.5), Point(27.5, 25.5, False)])
    assert (session.mask(1) == found).all()
    session.remove(1)


def test_points_alone_are_propagated_from_their_slices(session):
    segment_prompt(session, read_prompt({"foreground": [[12, 15, 5], [12, 15, 7]]}, SHAPE), 1)
    found = session.mask(1)
    session.remove(1)
    for index in (4, 6):
        session.segment_slice("axial", index, None, [Point(17.5, 12.5)])
    session.propagate("axial")
    assert (session.mask(1) == found).all()
    assert found[:, :, 5:8].any(axis=(0, 1)).all()
    session.remove(1)


def test_points_correct_the_mask_of_a_3d_box(session):
    box = {"box": [4, 2, 3, 28, 26, 9]}  # too large, so that it is not clear what is meant
    segment_prompt(session, read_prompt(box, SHAPE), 1)
    without = session.mask(1)
    session.remove(1)
    segment_prompt(session, read_prompt({**box, "background": [[22, 10, 5]], "foreground": [[12, 15, 7]]}, SHAPE), 1)
    changed = (session.mask(1) != without).any(axis=(0, 1))
    session.remove(1)
    assert set(np.flatnonzero(changed)) == {5, 7}


def test_boxes_on_two_slices_are_joined(session):
    params = {"boxes": [[4, 9, 4, 21, 22, 5], [4, 9, 7, 21, 22, 8]], "reach": 0}
    segment_prompt(session, read_prompt(params, SHAPE), 1)
    assert set(np.flatnonzero(session.mask(1).any(axis=(0, 1)))) == {4, 5, 6, 7}
    session.remove(1)
