"""From boxes on a few slices to masks on all slices that show the object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from monai_cobot.inferers.cancel import Progress
from monai_cobot.inferers.grid import Box
from monai_cobot.inferers.prediction import SlicePrediction, SlicePredictor
from monai_cobot.inferers.prompts import SlicePrompts
from monai_cobot.transforms import box_from_mask

__all__ = ["EndRules", "PropagatedSlice", "grown_box", "propagate"]


@dataclass(frozen=True)
class EndRules:
    """Where an object ends, and how its box goes from slice to slice. The object ends before the first slice that
    breaks one of the rules.

    Attributes:
        margin: the next box is the last mask's, larger on each side by this share of its length and by half a pixel.
        min_quality: the decoder's score, at least this share of the lowest on the slices that were prompted.
        min_area: area, at least this share of the last slice's.
        max_area: area, at most this multiple of the last slice's.
        min_overlap: DSC with the mask of the last slice, at least this.
        min_familiar: this share of the mask's pixels has intensities that 98 % of the object had on the slices that
            were prompted.
        max_growth: where several slices were prompted, the area beyond the outermost is at most this multiple of what
            their masks let expect: that of the outermost, which grows on if it grew from the one before.
        max_drift: there, the middle of the mask is off that of the outermost box by at most this share of the box's
            length; where the boxes moved on from one to the next, it may go on as fast besides.
        max_reach: it goes on beyond the first and last prompted slice by at most this multiple of its size in the
            slice, in millimetres: a model that was trained on boxes alone finds something in every box.
        follow_trend: where three or more boxes show that the object is widest between them, an ellipsoid through their
            lengths says how long a box may be beyond, and where the object ends at the latest.
    """

    margin: float = 0.03
    min_quality: float = 0.75
    min_area: float = 0.3
    max_area: float = 1.7
    min_overlap: float = 0.5
    min_familiar: float = 0.6
    max_growth: float = 1.5
    max_drift: float = 0.5
    max_reach: float = 1.0
    follow_trend: bool = True


@dataclass(frozen=True, eq=False)
class PropagatedSlice:
    """A slice that shows the object.

    Attributes:
        box: the box that it was segmented with.
        prediction: what came out.
        given: whether a user drew the box.
    """

    box: Box
    prediction: SlicePrediction
    given: bool


def propagate(
    predict: SlicePredictor,
    axis: str,
    prompts: Mapping[int, SlicePrompts],
    limits: range,
    rules: EndRules = EndRules(),
    progress: Progress | None = None,
) -> dict[int, PropagatedSlice]:
    """Segment an object from prompts on one or more of its slices.

    Between two prompted slices, the box is interpolated linearly. Beyond the first and the last, each box comes from
    the mask before it, until the object ends (:class:`EndRules`) or the limits are reached.

    Args:
        predict: segments a slice.
        axis: slice axis.
        prompts: slice index -> what was drawn on it; where that shows nothing, the slice is passed over.
        limits: slices that the result may have; prompts on others still say where the object is, and it is followed
            from there.
        rules: where the object ends.
        progress: is told the slices done and, at most, to do.

    Returns:
        Slice index -> result, rising, for the slices that show the object; none where no prompt shows any.

    Raises:
        ValueError: there are no prompts, or they do not fit.
        Cancelled: if so asked.
    """
    if not prompts:
        raise ValueError("Propagation starts from a box or points on at least one slice; there are none.")
    done: dict[int, PropagatedSlice] = {}

    def add(index: int, box: Box, prediction: SlicePrediction, given: bool) -> PropagatedSlice:
        done[index] = PropagatedSlice(box, prediction, given)
        if progress is not None:
            progress(sum(each in limits for each in done), len(limits))
        return done[index]

    for index in sorted(prompts):
        prediction = predict(axis, index, prompts[index])
        box = prompts[index].box or _box_of(prediction.mask)
        if box is not None:
            add(index, box, prediction, given=True)
    given = list(done)
    if not given:
        return {}
    reference = _Reference(predict, axis, {index: done[index] for index in given}, rules)
    for low, high in pairwise(given):
        for index in range(low + 1, high):
            if index in limits:
                box = _between(done[low].box, done[high].box, (index - low) / (high - low))
                add(index, box, predict(axis, index, SlicePrompts(box)), given=False)
    between_slices, between_rows, between_columns = predict.spacing(axis)
    boxes = {index: done[index].box for index in given}
    size = max(((x1 - x0) * between_columns * (y1 - y0) * between_rows) ** 0.5 for x0, y0, x1, y1 in boxes.values())
    reach = int(rules.max_reach * size / between_slices)
    trend = _Trend(boxes) if rules.follow_trend else _Trend({})
    for start, step in ((given[0], -1), (given[-1], 1)):
        last = done[start]
        end = limits.start if step < 0 else limits.stop - 1
        farthest = min(reach, step * (end - start))
        for index in range(start + step, start + step * (farthest + 1), step):
            if not last.prediction.mask.any():
                break
            box = trend.limited(grown_box(last.prediction.mask, rules.margin), index)
            if box is None:
                break
            following = add(index, box, predict(axis, index, SlicePrompts(box)), given=False)
            if reference.is_beyond(index, following.prediction, last.prediction):
                del done[index]
                break
            last = following
    if progress is not None:
        progress(len(limits), len(limits))
    return {index: done[index] for index in sorted(done) if index in limits}


class _Reference:
    """What the object looks like on the slices that were prompted."""

    def __init__(
        self, predict: SlicePredictor, axis: str, given: Mapping[int, PropagatedSlice], rules: EndRules
    ) -> None:
        self._image = lambda index: predict.image(axis, index)
        self._rules = rules
        self._given = given
        self._quality = min(each.prediction.quality for each in given.values())
        values = np.concatenate([self._image(index)[each.prediction.mask] for index, each in given.items()])
        self._low = float(np.percentile(values, 1)) if values.size else 0.0
        self._high = float(np.percentile(values, 99)) if values.size else 1.0

    def is_beyond(self, index: int, prediction: SlicePrediction, last: SlicePrediction) -> bool:
        """Whether a slice lies beyond the object's end, after a last one that did not."""
        rules, area, last_area = self._rules, np.count_nonzero(prediction.mask), np.count_nonzero(last.mask)
        if area == 0 or not rules.min_area <= area / last_area <= rules.max_area:
            return True
        if prediction.quality < rules.min_quality * self._quality or self._goes_astray(index, prediction.mask):
            return True
        overlap = 2 * np.count_nonzero(prediction.mask & last.mask) / (area + last_area)
        values = self._image(index)[prediction.mask]
        familiar = np.count_nonzero((values >= self._low) & (values <= self._high)) / area
        return bool(overlap < rules.min_overlap or familiar < rules.min_familiar)

    def _goes_astray(self, index: int, mask: np.ndarray) -> bool:
        """Whether a mask is larger or elsewhere than the outermost prompted slice and the one before it let expect."""
        if len(self._given) < 2:
            return False
        nearest = sorted(self._given, key=lambda given: abs(given - index))
        outer, inner = nearest[0], nearest[1]
        ahead = abs(index - outer) / abs(outer - inner)
        outer_area, inner_area = (np.count_nonzero(self._given[each].prediction.mask) for each in (outer, inner))
        if np.count_nonzero(mask) > self._rules.max_growth * (outer_area + max(0, outer_area - inner_area) * ahead):
            return True
        found = box_from_mask(mask).tolist()
        for low, high in ((0, 2), (1, 3)):
            (middle, length), (before, _) = (
                ((box[low] + box[high]) / 2, box[high] - box[low])
                for box in (self._given[outer].box, self._given[inner].box)
            )
            off, moved = (found[low] + found[high]) / 2 - middle, (middle - before) * ahead
            allowed = self._rules.max_drift * length
            if not min(0.0, moved) - allowed <= off <= max(0.0, moved) + allowed:
                return True
        return False


class _Trend:
    """How large boxes may be beyond the prompted slices: as those of an ellipsoid through the prompted ones.

    The area, and the squared length, of an ellipsoid's cross-section is a parabola over the slices. Where the prompted
    boxes give none that opens downwards, nothing is said.
    """

    _SLACK = 1.1

    def __init__(self, boxes: Mapping[int, Box]) -> None:
        indices = list(boxes)
        self._area = _parabola(indices, [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes.values()])
        self._squares = [
            _parabola(indices, [(box[side + 2] - box[side]) ** 2 for box in boxes.values()]) for side in (0, 1)
        ]

    def limited(self, box: Box, index: int) -> Box | None:
        """The box, shortened about its middle where it is too long for a slice; None where the object has ended."""
        if self._area is not None and np.polyval(self._area, index) < 1:  # smaller than a pixel
            return None
        edges = list(box)
        for side, square in enumerate(self._squares):
            if square is not None:
                low, high = edges[side], edges[side + 2]
                longest = self._SLACK * max(1.0, float(np.polyval(square, index))) ** 0.5
                half = min(high - low, longest) / 2
                edges[side], edges[side + 2] = (low + high) / 2 - half, (low + high) / 2 + half
        return edges[0], edges[1], edges[2], edges[3]


def _parabola(indices: list[int], values: list[float]) -> np.ndarray | None:
    """The coefficients of the one closest to three or more values; None where it does not open downwards."""
    if len(indices) < 3:
        return None
    coefficients = np.polyfit(indices, values, 2)
    return coefficients if coefficients[0] < 0 else None


def _box_of(mask: np.ndarray) -> Box | None:
    if not mask.any():
        return None
    x0, y0, x1, y1 = box_from_mask(mask).tolist()
    return x0, y0, x1, y1


def grown_box(mask: np.ndarray, margin: float) -> Box:
    """The box of a mask (H, W), larger on each side by a share of its length and half a pixel, inside the slice."""
    height, width = mask.shape
    x0, y0, x1, y1 = box_from_mask(mask).tolist()
    more_x, more_y = margin * (x1 - x0) + 0.5, margin * (y1 - y0) + 0.5
    return max(0.0, x0 - more_x), max(0.0, y0 - more_y), min(width, x1 + more_x), min(height, y1 + more_y)


def _between(low: Box, high: Box, share: float) -> Box:
    x0, y0, x1, y1 = ((1 - share) * first + share * last for first, last in zip(low, high, strict=True))
    return x0, y0, x1, y1
