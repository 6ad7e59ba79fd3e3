"""Propagation with a predictor whose right answer is known: what is bright in the box."""

from dataclasses import replace

import numpy as np
import pytest

from monai_cobot.inferers import Cancelled, CancelToken, EndRules, Point, SlicePrediction, SlicePrompts
from monai_cobot.inferers.propagation import propagate


class BrightInBox:
    """Stands in for a SlicePredictor on a volume (slices, H, W)."""

    def __init__(self, slices: np.ndarray, quality: float = 0.9) -> None:
        self.slices = slices
        self.quality = np.full(len(slices), quality)
        self.asked: list[tuple[int, SlicePrompts]] = []
        self.cancel = CancelToken()

    def image(self, axis: str, index: int) -> np.ndarray:
        return self.slices[index]

    def spacing(self, axis: str) -> tuple[float, float, float]:
        return 1.0, 1.0, 1.0

    def __call__(self, axis: str, index: int, prompts: SlicePrompts) -> SlicePrediction:
        self.cancel.check()
        self.asked.append((index, prompts))
        height, width = self.slices.shape[1:]
        x0, y0, x1, y1 = prompts.box
        rows, columns = np.mgrid[:height, :width] + 0.5
        inside = (columns > x0) & (columns < x1) & (rows > y0) & (rows < y1)
        return SlicePrediction(np.where(inside & (self.slices[index] > 0.5), 5.0, -5.0), self.quality[index])


def moving_disc(first: int = 8, last: int = 31) -> np.ndarray:
    """(40, 48, 48): a disc that wanders and grows, in slices first to last."""
    rows, columns = np.mgrid[:48, :48]
    slices = np.full((40, 48, 48), 0.1)
    for index in range(first, last + 1):
        inside = (columns - 12 - 0.6 * index) ** 2 + (rows - 30 + 0.3 * index) ** 2 < (5 + 0.1 * index) ** 2
        slices[index][inside] = 0.8
    return slices


def box_at(slices: np.ndarray, index: int) -> SlicePrompts:
    rows, columns = np.nonzero(slices[index] > 0.5)
    return SlicePrompts((float(columns.min()), float(rows.min()), columns.max() + 1.0, rows.max() + 1.0))


ALL = range(40)
FAR = EndRules(max_reach=100)


def masks_are(found, slices: np.ndarray) -> bool:
    return all(np.array_equal(found[index].prediction.mask, slices[index] > 0.5) for index in found)


def test_one_box_reaches_both_ends_of_an_object_that_moves() -> None:
    slices = moving_disc()
    found = propagate(BrightInBox(slices), "axial", {20: box_at(slices, 20)}, ALL, FAR)
    assert list(found) == list(range(8, 32))
    assert masks_are(found, slices)
    assert [index for index, of_slice in found.items() if of_slice.given] == [20]


def test_boxes_between_two_given_ones_are_interpolated() -> None:
    slices = moving_disc()
    predict = BrightInBox(slices)
    given = {10: SlicePrompts((10, 10, 30, 30)), 14: SlicePrompts((14, 10, 38, 30))}
    propagate(predict, "axial", given, range(10, 15))
    assert dict(predict.asked)[11].box == (11, 10, 32, 30)
    assert dict(predict.asked)[13].box == (13, 10, 36, 30)


def test_nothing_is_asked_for_beyond_the_limits() -> None:
    slices = moving_disc()
    predict = BrightInBox(slices)
    assert list(propagate(predict, "axial", {20: box_at(slices, 20)}, range(15, 23), FAR)) == list(range(15, 23))
    assert {index for index, _ in predict.asked} == set(range(15, 23))


def test_boxes_beyond_the_limits_guide_what_is_within_and_are_not_changed() -> None:
    slices = moving_disc()
    predict = BrightInBox(slices)
    given = {index: box_at(slices, index) for index in (12, 24)}
    found = propagate(predict, "axial", given, range(14, 20), FAR)
    assert list(found) == list(range(14, 20))
    assert all(of_slice.prediction.mask.any() for of_slice in found.values())
    assert {index for index, _ in predict.asked} == {12, 24, *range(14, 20)}


@pytest.mark.parametrize(("limits", "asked"), [(range(15, 20), range(12, 20)), (range(8, 10), range(8, 13))])
def test_an_object_is_followed_through_slices_beyond_the_limits_to_those_within(limits: range, asked: range) -> None:
    slices = moving_disc()
    predict = BrightInBox(slices)
    steps: list[tuple[int, int]] = []
    found = propagate(predict, "axial", {12: box_at(slices, 12)}, limits, FAR, lambda *step: steps.append(step))
    assert list(found) == list(limits)
    assert masks_are(found, slices)
    assert {index for index, _ in predict.asked} == set(asked)
    assert steps[2] == (0, len(limits)), "what is not kept is no slice done"
    assert steps[-1] == (len(limits), len(limits))
    assert propagate(BrightInBox(moving_disc(last=14)), "axial", {12: box_at(slices, 12)}, range(16, 20), FAR) == {}


def test_a_prompt_that_shows_nothing_draws_no_box_after_it() -> None:
    class NothingAtPoints(BrightInBox):
        def __call__(self, axis: str, index: int, prompts: SlicePrompts) -> SlicePrediction:
            return super().__call__(axis, index, prompts if prompts.box else SlicePrompts((1, 1, 6, 6)))

    slices = moving_disc(last=20)
    predict = NothingAtPoints(slices)
    point = SlicePrompts(None, (Point(3, 3),))
    found = propagate(predict, "axial", {15: box_at(slices, 15), 30: point}, ALL, FAR)
    assert list(found) == list(range(8, 21))
    assert masks_are(found, slices)
    assert propagate(predict, "axial", {30: point}, ALL, FAR) == {}


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("min_quality", lambda predict: predict.quality.__setitem__(slice(25, None), 0.3)),
        ("min_area", lambda predict: predict.slices.__setitem__((slice(25, None), slice(0, 23)), 0.1)),
        ("max_area", lambda predict: predict.slices.__setitem__(slice(25, None), 0.8)),
        (
            "min_overlap",
            lambda predict: predict.slices.__setitem__(slice(25, None), np.roll(predict.slices[25:], 4, 2)),
        ),
        ("min_familiar", lambda predict: np.copyto(predict.slices[25:], 5.0, where=predict.slices[25:] > 0.5)),
    ],
)
def test_each_rule_ends_the_object_by_itself(rule: str, change) -> None:
    off = EndRules(margin=0.3, min_quality=0, min_area=0, max_area=1e9, min_overlap=0, min_familiar=0, max_reach=100)
    on = {"min_quality": 0.75, "min_area": 0.8, "max_area": 1.3, "min_overlap": 0.7, "min_familiar": 0.6}[rule]
    slices = moving_disc()
    given = {20: box_at(slices, 20)}
    predict = BrightInBox(slices)
    change(predict)
    assert max(propagate(predict, "axial", given, ALL, off)) > 25
    assert max(propagate(predict, "axial", given, ALL, replace(off, **{rule: on}))) == 24


def wanders_back(slices: np.ndarray) -> None:
    for index in range(25, 32):
        slices[index] = np.roll(slices[index], -3 * (index - 24), axis=1)


def widens(slices: np.ndarray) -> None:
    rows, columns = np.mgrid[:48, :48]
    for index in range(25, 32):
        slices[index][(columns - 12 - 0.6 * index) ** 2 + (rows - 30 + 0.3 * index) ** 2 < (index - 17) ** 2] = 0.8


@pytest.mark.parametrize(("rule", "value", "change"), [("max_growth", 1.5, widens), ("max_drift", 0.5, wanders_back)])
def test_beyond_two_boxes_an_object_neither_grows_nor_wanders_off_otherwise_than_between_them(
    rule: str, value: float, change
) -> None:
    off = EndRules(0.3, 0, 0, 1e9, 0, 0, max_growth=1e9, max_drift=1e9, max_reach=100)
    slices = moving_disc()
    given = {index: box_at(slices, index) for index in (12, 20)}
    change(slices)
    assert max(propagate(BrightInBox(slices), "axial", given, ALL, off)) == 31
    assert 24 < max(propagate(BrightInBox(slices), "axial", given, ALL, replace(off, **{rule: value}))) < 31
    # one box alone says nothing of that
    one = {20: given[20]}
    assert max(propagate(BrightInBox(slices), "axial", one, ALL, replace(off, **{rule: value}))) == 31


@pytest.mark.parametrize("at", [(12, 24), (19, 20), (9, 12, 15)])
def test_an_object_that_goes_on_as_between_its_boxes_is_followed_to_both_ends(at: tuple[int, ...]) -> None:
    slices = moving_disc()
    given = {index: box_at(slices, index) for index in at}
    found = propagate(BrightInBox(slices), "axial", given, ALL, replace(FAR, follow_trend=False))
    assert list(found) == list(range(8, 32))


def test_an_object_goes_on_no_farther_than_its_reach() -> None:
    slices = np.full((40, 48, 48), 0.8)
    given = {20: SlicePrompts((10, 10, 18, 18))}
    found = propagate(BrightInBox(slices), "axial", given, ALL, EndRules(max_reach=1, max_area=9))
    assert list(found) == list(range(12, 29))


def test_three_boxes_of_an_ellipsoid_say_where_it_ends() -> None:
    """A model that fills every box does not know."""
    slices = np.full((40, 48, 48), 0.8)

    def box(index: int) -> SlicePrompts:
        half = 12 * (1 - ((index - 20) / 10) ** 2) ** 0.5
        return SlicePrompts((24 - half, 24 - half, 24 + half, 24 + half))

    given = {index: box(index) for index in (14, 20, 27)}
    found = propagate(BrightInBox(slices), "axial", given, ALL, EndRules(min_area=0, min_overlap=0))
    assert list(found) == list(range(11, 30))
    blind = EndRules(min_area=0, max_growth=1e9, max_drift=1e9, follow_trend=False)
    assert list(propagate(BrightInBox(slices), "axial", given, ALL, blind)) == list(range(40))


def test_progress_ends_at_its_total() -> None:
    slices = moving_disc()
    steps: list[tuple[int, int]] = []
    propagate(BrightInBox(slices), "axial", {20: box_at(slices, 20)}, ALL, FAR, lambda *step: steps.append(step))
    assert steps[0] == (1, 40)
    assert steps[-1] == (40, 40)
    assert steps == sorted(steps)


def test_it_can_be_cancelled_in_the_middle() -> None:
    slices = moving_disc()
    predict = BrightInBox(slices)

    def stop(done: int, total: int) -> None:
        if done == 5:
            predict.cancel.cancel()

    with pytest.raises(Cancelled):
        propagate(predict, "axial", {20: box_at(slices, 20)}, ALL, FAR, stop)
    assert len(predict.asked) == 5


def test_without_a_box_there_is_nothing_to_start_from() -> None:
    with pytest.raises(ValueError, match="there are none"):
        propagate(BrightInBox(moving_disc()), "axial", {}, ALL)
