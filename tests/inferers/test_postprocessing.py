import numpy as np

from monai_cobot.inferers.postprocessing import components_in_slices, fill_holes, largest_component


def test_the_largest_of_two_parts_is_kept_and_an_empty_mask_stays_empty() -> None:
    mask = np.zeros((8, 8, 8), dtype=bool)
    mask[0, 0, :2] = True
    mask[4:7, 4, 4] = mask[7, 5, 5] = True  # touches by a corner
    kept = largest_component(mask)
    assert kept.sum() == 4
    assert not kept[0].any()
    assert not largest_component(np.zeros((3, 4, 5), dtype=bool)).any()


def test_all_parts_that_meet_one_of_the_slices_are_kept_and_the_largest_where_none_does() -> None:
    mask = np.zeros((9, 8, 12), dtype=bool)
    first, second, large = mask.copy(), mask.copy(), mask.copy()
    first[1, 1, 0:2] = first[2, 2, 2] = True  # touches by a corner
    second[1, 1, 8:10] = True
    large[4:9, 4:8, 4:7] = True
    mask = first | second | large
    assert np.array_equal(components_in_slices(mask, 2, [0, 9]), first | second)
    assert np.array_equal(components_in_slices(mask, 2, [2, -5, 30]), first)
    assert np.array_equal(components_in_slices(mask, 0, [7]), large)
    assert np.array_equal(components_in_slices(mask, 2, [3, 11]), large)
    assert not components_in_slices(np.zeros((3, 4, 5), dtype=bool), 0, [1]).any()


def test_holes_are_filled_in_slices_of_the_axis_alone() -> None:
    mask = np.zeros((7, 7, 3), dtype=bool)
    mask[1:6, 1:6] = True
    mask[3, 3] = False  # a tunnel through all axial slices
    assert not fill_holes(mask, 0)[3, 3].any()
    filled = fill_holes(mask, 2)
    assert filled[3, 3].all()
    assert filled.sum() == 75


def test_the_largest_part_is_right_in_masks_of_every_size_also_small_and_flat_ones() -> None:
    for length in range(4, 40):
        for depth in (1, 2, 5):
            mask = np.zeros((length, length, depth), dtype=bool)
            mask[: length // 2, : length // 2] = True
            large = mask.copy()
            mask[-1, -1] = True
            assert np.array_equal(largest_component(mask), large), (length, depth)
