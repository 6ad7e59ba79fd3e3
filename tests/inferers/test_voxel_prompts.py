from collections.abc import Iterator

import numpy as np
import pytest

from monai_cobot.inferers import AdapterShelf, Region, VolumeSession, VoxelPrompt, segment_prompt
from tests.inferers.conftest import VolumeIn

BOX = Region((4, 9, 9), (20, 21, 10))
THICK = Region((4, 9, 8), (20, 21, 11))


@pytest.fixture
def session(shelf: AdapterShelf, volume_in: VolumeIn) -> Iterator[VolumeSession]:
    with VolumeSession(volume_in("LPS"), shelf.base, "window:-100,200", look_ahead=False) as session:
        yield session


def test_the_slice_of_the_index_is_segmented_and_no_other(session: VolumeSession) -> None:
    segment_prompt(session, VoxelPrompt(2, 9, BOX, ((12, 15, 9),), ((1, 1, 9),)))
    assert list(np.flatnonzero(session.mask(1).any(axis=(0, 1)))) == [9]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({}, "neither a box nor a foreground point"),
        ({"axis": 2, "index": 5, "background": ((1, 1, 5),)}, "neither a box nor a foreground point"),
        ({"axis": 3, "box": BOX}, "axis is 3; it is 0, 1 or 2"),
        ({"index": 9, "box": BOX}, "Slice 9 of which axis"),
        ({"axis": 2, "index": 5, "box": BOX}, r"slice 5 along axis 2 lie in the slices \[9\]"),
        ({"axis": 1, "index": 9, "box": BOX}, "slice 9 along axis 1 lie in the slices"),
        ({"axis": 2, "index": 9, "box": THICK}, r"lie in the slices \[8, 9, 10\]"),
        ({"axis": 2, "index": 9, "box": BOX, "background": ((1, 1, 5),)}, r"lie in the slices \[5, 9\]"),
        ({"axis": 2, "index": 5, "foreground": ((12, 15, 9),)}, r"lie in the slices \[9\]"),
        ({"axis": 2, "index": 9, "boxes": (BOX,)}, "give one or the other"),
        ({"axis": 2, "box": THICK, "boxes": (BOX,)}, "give one or the other"),
    ],
)
def test_a_prompt_that_says_no_place_or_two_is_refused_before_anything_is_segmented(prompt: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VoxelPrompt(**prompt)


@pytest.mark.parametrize("axis", [None, 2])
def test_a_box_to_propagate_from_that_is_thicker_than_a_slice_is_refused(
    session: VolumeSession, axis: int | None
) -> None:
    with pytest.raises(ValueError, match="lies in 3 axial slices"):
        segment_prompt(session, VoxelPrompt(axis, boxes=(THICK,)))
    assert not session.objects
