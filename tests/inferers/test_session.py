import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from monai_cobot.data import Volume, read_mask
from monai_cobot.inferers import (
    AdapterShelf,
    Cancelled,
    CancelToken,
    EmbeddingCache,
    EndRules,
    Point,
    Region,
    SlicePrediction,
    VolumeSession,
    region_to_source,
)
from monai_cobot.inferers.prediction import SlicePredictor
from monai_cobot.networks import build_sam
from monai_cobot.transforms import SLICE_AXES, take_slice
from tests.inferers.conftest import SIZE, VolumeIn

BOX = (4.0, 9.0, 20.0, 21.0)  # around the ball in its middle axial slice
OTHER_BOX = (5.0, 2.0, 16.0, 14.0)
REGION = Region((4, 9, 4), (20, 21, 14))
PRESET = "window:-100,200"


@pytest.fixture
def session(shelf: AdapterShelf, volume_in: VolumeIn) -> VolumeSession:
    return VolumeSession(volume_in("LPS"), shelf.base, PRESET, look_ahead=False)


def state(session: VolumeSession) -> dict[int, np.ndarray]:
    return {label: session.mask(label) for label in session.objects}


def same(one: dict[int, np.ndarray], other: dict[int, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[label], other[label]) for label in one)


@pytest.mark.parametrize("orientation", ["RAS", "PIR", "SLA"])
def test_masks_come_back_on_the_files_own_grid_whatever_its_orientation(
    session: VolumeSession, shelf: AdapterShelf, volume_in: VolumeIn, orientation: str
) -> None:
    other = VolumeSession(volume_in(orientation), shelf.base, PRESET, look_ahead=False)
    for each in (session, other):
        each.segment_slice("axial", 9, BOX)
        each.segment_slice("coronal", 15, (4, 5, 20, 16))
    assert session.mask(1).any()
    assert other.mask(1).shape == other.volume.source_shape

    def world(of: VolumeSession) -> np.ndarray:
        voxels = np.argwhere(of.mask(1))
        points = np.c_[voxels, np.ones(len(voxels))] @ of.volume.source_affine.T
        return np.unique(points.round(3), axis=0)

    assert np.array_equal(world(session), world(other))


@pytest.mark.parametrize("axis", SLICE_AXES)
def test_the_mask_of_a_slice_is_what_the_network_makes_of_it(session: VolumeSession, axis: str) -> None:
    prediction = session.segment_slice(axis, 9, BOX if axis == "axial" else OTHER_BOX)
    assert prediction.mask.any()
    lps = session.lps_mask(1)
    assert np.array_equal(take_slice(lps[None], axis, 9)[0], prediction.mask)
    assert lps.sum() == prediction.mask.sum()


def test_a_crop_holds_the_whole_mask_on_the_files_grid(shelf: AdapterShelf, volume_in: VolumeIn) -> None:
    session = VolumeSession(volume_in("PIR"), shelf.base, PRESET, look_ahead=False)
    session.segment_slice("axial", 9, BOX)
    region, crop = session.crop(1)
    mask = session.mask(1)
    assert np.array_equal(mask[region.slices], crop)
    assert crop.sum() == mask.sum() > 0
    assert region == Region.around(mask)


def test_undo_and_redo_go_through_every_change(session: VolumeSession) -> None:
    states = [state(session)]
    session.segment_slice("axial", 9, BOX)
    states.append(state(session))
    session.segment_region(REGION, label=2)
    states.append(state(session))
    session.remove(1)
    states.append(state(session))
    for expected in reversed(states[:-1]):
        assert session.undo()
        assert same(state(session), expected)
    assert not session.undo()
    for expected in states[1:]:
        assert session.redo()
        assert same(state(session), expected)
    assert not session.redo()


def test_a_new_change_takes_the_place_of_what_was_undone(session: VolumeSession) -> None:
    session.segment_slice("axial", 9, BOX)
    session.undo()
    session.segment_slice("axial", 9, OTHER_BOX)
    assert not session.redo()


@pytest.mark.parametrize(
    "work",
    [
        lambda session, **options: session.segment_region(REGION, **options),
        lambda session, **options: session.propagate("axial", {9: BOX}, **options),
        lambda session, **options: session.propagate("axial", {9: BOX}, fuse=True, **options),
    ],
    ids=["region", "propagate", "fuse"],
)
def test_cancelled_work_leaves_everything_as_it_was(session: VolumeSession, work: Callable) -> None:
    session.segment_slice("axial", 9, OTHER_BOX)
    before, token, steps = state(session), CancelToken(), []

    def stop(done: int, total: int) -> None:
        steps.append((done, total))
        if len(steps) == 3:
            token.cancel()

    with pytest.raises(Cancelled):
        work(session, cancel=token, progress=stop)
    assert len(steps) == 3
    assert same(state(session), before)
    session.undo()
    assert not session.objects


def test_wrong_prompts_are_refused_and_change_nothing(session: VolumeSession) -> None:
    for wrong, message in (
        ({"axis": "axial", "index": 99, "box": BOX}, "axial slice 99 is outside"),
        ({"axis": "oblique", "index": 9, "box": BOX}, "unknown slice axis"),
        ({"axis": "axial", "index": 9}, "there is neither"),
        ({"axis": "axial", "index": 9, "box": (9, 9, 9, 12)}, "inverted or empty"),
        ({"axis": "axial", "index": 9, "points": [Point(3, 3, inside=False)]}, "there is neither"),
        ({"axis": "axial", "index": 9, "points": [Point(31, 3)]}, "outside the slice"),
        ({"axis": "axial", "index": 9, "box": BOX, "label": 0}, "from 1 to"),
    ):
        with pytest.raises(ValueError, match=message):
            session.segment_slice(**wrong)
    assert not session.objects
    assert not session.undo()


def test_points_join_what_was_drawn_on_the_slice(session: VolumeSession) -> None:
    drawn = session.segment_slice("axial", 9, BOX)
    corrected = session.add_point("axial", 9, Point(6, 11, inside=False))
    again = session.segment_slice("axial", 9, BOX, [Point(6, 11, inside=False)])
    assert not np.array_equal(corrected.logits, drawn.logits)
    assert np.array_equal(corrected.logits, again.logits)
    session.add_point("axial", 9, Point(12, 15))
    assert len(session.objects[1].prompts["axial", 9].points) == 2


def test_a_point_on_a_slice_of_another_axis_starts_from_the_masks_box_there(session: VolumeSession) -> None:
    session.segment_region(REGION)
    mask = take_slice(session.lps_mask(1)[None], "coronal", 15)[0]
    rows, columns = np.nonzero(mask)
    session.add_point("coronal", 15, Point(12, 10))
    box = session.objects[1].prompts["coronal", 15].box
    assert box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_a_region_changes_nothing_outside_itself(session: VolumeSession) -> None:
    session.segment_slice("axial", 16, BOX)
    before = session.lps_mask(1)
    session.segment_region(REGION, axes=SLICE_AXES)
    after = session.lps_mask(1)
    after[REGION.slices] = before[REGION.slices]
    assert np.array_equal(after, before)
    assert session.lps_mask(1)[REGION.slices].any()


def test_every_slice_of_a_region_is_prompted_with_its_cross_section(session: VolumeSession) -> None:
    session.segment_region(REGION, label=1)
    for index in REGION.indices("axial"):
        session.segment_slice("axial", index, REGION.box("axial", session.shape), label=2)
    inside = session.lps_mask(2)[REGION.slices]
    assert np.array_equal(session.lps_mask(1)[REGION.slices], inside)
    assert set(session.objects[1].prompts) == {("axial", index) for index in range(4, 14)}


def test_a_propagated_object_goes_through_its_boxes(session: VolumeSession) -> None:
    found = session.propagate("axial", {7: BOX, 11: BOX}, fill=False)
    assert set(range(7, 12)) <= set(found)
    mask = session.lps_mask(1)
    for index in (7, 11):
        expected = session.segment_slice("axial", index, BOX, label=2).mask
        assert np.array_equal(take_slice(mask[None], "axial", index)[0], expected)


def test_what_was_drawn_on_slices_is_propagated(session: VolumeSession) -> None:
    session.segment_slice("axial", 7, BOX, label=1)
    session.segment_slice("axial", 11, BOX, label=1)
    session.propagate("axial", label=1)
    session.propagate("axial", {7: BOX, 11: BOX}, label=2)
    assert np.array_equal(session.mask(1), session.mask(2))


@pytest.mark.parametrize("fuse", [False, True])
def test_a_box_that_is_drawn_after_a_propagation_joins_the_first_ones_in_the_next(
    session: VolumeSession, fuse: bool
) -> None:
    session.segment_slice("axial", 6, BOX)
    session.segment_slice("axial", 12, BOX)
    session.propagate("axial", fuse=fuse)
    session.segment_slice("axial", 9, OTHER_BOX)
    session.propagate("axial", fuse=fuse)
    session.propagate("axial", {6: BOX, 9: OTHER_BOX, 12: BOX}, label=2, fuse=fuse)
    assert np.array_equal(session.mask(1), session.mask(2))
    assert session.objects[1].prompts == session.objects[2].prompts


@pytest.mark.parametrize("fuse", [False, True])
def test_a_propagation_that_ends_earlier_takes_the_slices_of_the_one_before_away(
    session: VolumeSession, fuse: bool
) -> None:
    session.segment_slice("axial", 17, BOX)
    far = session.propagate("axial", {9: BOX}, limits=range(5, 14), fuse=fuse)
    near = session.propagate("axial", {9: BOX}, rules=EndRules(max_reach=0.1), fuse=fuse)
    assert len(near) < len(far)
    present = np.flatnonzero(session.lps_mask(1).any(axis=(0, 1)))
    assert set(present) <= {*near, 17}
    assert 17 in present, "what was drawn there stays"
    assert set(session.objects[1].prompts) == {("axial", index) for index in (*near, 17)}


def test_the_slices_of_a_3d_box_are_not_drawn_boxes_to_propagate_from(session: VolumeSession) -> None:
    session.segment_region(REGION)
    with pytest.raises(ValueError, match="there are none"):
        session.propagate("axial")
    session.segment_slice("axial", 9, BOX)
    session.propagate("axial", limits=range(8, 11))
    session.propagate("axial", {9: BOX}, label=2, limits=range(8, 11))
    assert np.array_equal(session.lps_mask(1)[:, :, 8:11], session.lps_mask(2)[:, :, 8:11])
    assert session.lps_mask(1)[:, :, 5].any(), "slices of the 3D box stay"


def test_fused_axes_change_the_slices_that_may_be_changed_all_of_them_and_no_others(session: VolumeSession) -> None:
    session.segment_region(Region((0, 0, 0), session.shape), label=1, axes=("coronal",))
    before, limits = session.lps_mask(1), range(8, 11)
    assert before[:, :, [7, 11]].any(axis=(0, 1)).all()
    session.propagate("axial", {9: BOX}, label=1, limits=limits, fuse=True, keep_connected=False, fill=False)
    session.propagate("axial", {9: BOX}, label=2, limits=limits, fuse=True, keep_connected=False, fill=False)
    after, alone = session.lps_mask(1), session.lps_mask(2)
    assert set(np.flatnonzero(alone.any(axis=(0, 1)))) == set(limits)
    assert np.array_equal(after[:, :, 8:11], alone[:, :, 8:11])
    after[:, :, 8:11] = before[:, :, 8:11]
    assert np.array_equal(after, before)


def test_who_waits_for_others_can_be_cancelled_and_removing_waits_for_nobody(session: VolumeSession) -> None:
    session.segment_slice("axial", 9, BOX, label=2)
    begun, go_on, token = threading.Event(), threading.Event(), CancelToken()

    def hold(done: int, total: int) -> None:
        begun.set()
        assert go_on.wait(60)

    working = threading.Thread(target=lambda: session.segment_region(REGION, label=1, progress=hold))
    working.start()
    assert begun.wait(60)
    ended: list[str] = []

    def wait() -> None:
        with pytest.raises(Cancelled):
            session.segment_slice("axial", 9, BOX, label=3, cancel=token)
        session.remove(2)
        ended.append("cancelled, and removed")

    waiting = threading.Thread(target=wait)
    waiting.start()
    waiting.join(0.2)
    assert not ended
    token.cancel()
    waiting.join(10)
    assert ended
    assert working.is_alive()
    go_on.set()
    working.join(60)
    assert list(session.objects) == [1]


def test_where_objects_overlap_the_first_one_stays_in_the_label_map(session: VolumeSession, tmp_path: Path) -> None:
    session.segment_slice("axial", 9, BOX, label=3)
    session.segment_slice("axial", 9, (2.0, 7.0, 23.0, 24.0), label=300)
    first, second = session.mask(3), session.mask(300)
    labels = session.label_map()
    assert np.array_equal(labels == 3, first)
    assert np.array_equal(labels == 300, second & ~first)
    assert (second & first).any()
    session.save(tmp_path / "labels.nrrd")
    assert np.array_equal(read_mask(tmp_path / "labels.nrrd").array[0], session._label_map())
    assert sitk.ReadImage(str(tmp_path / "labels.nrrd")).GetSpacing() == (2.0, 2.0, 3.0)


def test_another_adapter_takes_over_with_the_objects_as_they_are(
    session: VolumeSession, shelf: AdapterShelf, adapter_folder: Callable[..., Path]
) -> None:
    first = session.segment_slice("axial", 9, BOX)
    before = state(session)
    session.use(shelf.load(adapter_folder("lora", 5)))
    assert same(state(session), before)
    assert not np.array_equal(session.segment_slice("axial", 9, BOX, label=2).logits, first.logits)
    session.use(shelf.base)
    assert np.array_equal(session.segment_slice("axial", 9, BOX, label=2).logits, first.logits)


def test_the_preset_is_the_given_one_then_the_models_then_one_that_fits(
    shelf: AdapterShelf, volume_in: VolumeIn, adapter_folder: Callable[..., Path]
) -> None:
    volume: Volume = volume_in("LPS")
    adapted = shelf.load(adapter_folder("lora", 5))
    assert VolumeSession(volume, adapted, "window:0,9").preset == "window:0,9"
    assert VolumeSession(volume, adapted).preset == "window:-100,200"
    assert VolumeSession(volume, shelf.base).preset == "mr"
    with pytest.raises(ValueError, match="unknown intensity preset"):
        VolumeSession(volume, shelf.base, "ct_knee")


def test_a_preset_that_fits_is_looked_for_once(session: VolumeSession, monkeypatch: pytest.MonkeyPatch) -> None:
    import monai_cobot.inferers.session as module

    looked: list[Volume] = []
    monkeypatch.setattr(module, "guess_preset", lambda volume: looked.append(volume) or "mr")
    with VolumeSession(session.volume, session.model) as guessing:
        for index in (8, 9):
            guessing.segment_slice("axial", index, BOX)
    assert looked == [session.volume]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_masks_of_the_processor_also_from_embeddings_on_disk(
    shelf: AdapterShelf, volume_in: VolumeIn, tmp_path: Path
) -> None:
    on_gpu = AdapterShelf(build_sam("vit_mini", image_size=SIZE), "cuda", precision="float32")

    def masks(of: AdapterShelf, cache: EmbeddingCache) -> list[np.ndarray]:
        with VolumeSession(volume_in("RAS"), of.base, PRESET, cache, look_ahead=False) as session:
            session.segment_slice("axial", 9, BOX, label=1)
            session.segment_region(REGION, label=2, axes=SLICE_AXES)
            session.propagate("axial", {9: BOX}, label=3, fuse=True)
            return [session.lps_mask(label) for label in (1, 2, 3)]

    expected = masks(shelf, EmbeddingCache())
    for _ in ("computed", "from disk"):
        for mask, of_processor in zip(masks(on_gpu, EmbeddingCache(folder=tmp_path)), expected, strict=True):
            assert of_processor.any()
            assert (mask != of_processor).mean() < 1e-3


def test_a_second_session_finds_the_embeddings_of_the_first_on_disk(
    shelf: AdapterShelf, volume_in: VolumeIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[str] = []
    put = EmbeddingCache.put
    monkeypatch.setattr(EmbeddingCache, "put", lambda *of: (computed.append(of[2]), put(*of)))
    masks = []
    for _ in range(2):
        cache = EmbeddingCache(folder=tmp_path)
        with VolumeSession(volume_in("RAS"), shelf.base, PRESET, cache, look_ahead=False) as session:
            session.segment_slice("axial", 9, BOX)
            masks.append(session.mask(1))
    assert len(computed) == 1
    assert np.array_equal(*masks)


def test_objects_can_be_read_and_the_session_left_while_it_looks_ahead(
    shelf: AdapterShelf, volume_in: VolumeIn
) -> None:
    with VolumeSession(volume_in("LPS"), shelf.base, PRESET) as session:
        session.segment_slice("axial", 9, BOX)
        session.segment_slice("axial", 10, BOX)
    assert session.mask(1).any()
    assert region_to_source(REGION, session.volume) == REGION


def test_a_session_that_keeps_no_undo_has_nothing_to_take_back(shelf: AdapterShelf, volume_in: VolumeIn) -> None:
    with VolumeSession(volume_in("LPS"), shelf.base, PRESET, look_ahead=False, keep_undo=False) as session:
        for index in (8, 9):
            session.segment_slice("axial", index, BOX)
        assert session.mask(1).any()
        assert not session.undo()
        assert session.mask(1).any()


def test_the_slices_beside_a_prompted_one_are_encoded_ahead(shelf: AdapterShelf, volume_in: VolumeIn) -> None:
    cache = EmbeddingCache()
    with VolumeSession(volume_in("LPS"), shelf.base, PRESET, cache) as session:
        session.segment_slice("axial", 9, BOX)
        digests = [session._encoder._digest(PRESET, "axial", index) for index in (8, 10)]
        end = time.monotonic() + 20
        while any(cache.get(shelf.base.embedding_source, digest) is None for digest in digests):
            assert time.monotonic() < end, "they were not"
            time.sleep(0.005)


def test_three_axes_are_fused_by_the_mean_of_their_probabilities(session: VolumeSession) -> None:
    steps: list[tuple[int, int]] = []
    session.propagate("axial", {9: BOX}, label=1, keep_connected=False, fill=False)
    session.propagate(
        "axial",
        {9: BOX},
        label=2,
        fuse=True,
        keep_connected=False,
        fill=False,
        progress=lambda *step: steps.append(step),
    )
    one, fused = session.lps_mask(1), session.lps_mask(2)
    assert not np.array_equal(one, fused)
    assert 2 * (one & fused).sum() / (one.sum() + fused.sum()) > 0.5
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert {total for _, total in steps} == {sum(session.shape)}, "the whole total is told from the start"
    assert steps[-1][0] == sum(session.shape)
    # a voxel beside the object, in which no axis sees it, is in neither
    i, j, k = (int(end) for end in np.argwhere(one).max(0) + 3)
    assert not fused[i:, j:, k:].any()


def paint(
    session: VolumeSession,
    monkeypatch: pytest.MonkeyPatch,
    painted: np.ndarray,
    axes: Sequence[str] = SLICE_AXES,
) -> None:
    """Whatever is drawn, slices of these axes show this, and others nothing: (I, J, K) bool at the volume's origin."""
    whole = np.zeros(session.shape, dtype=bool)
    i, j, k = painted.shape
    whole[:i, :j, :k] = painted

    class Painted(SlicePredictor):
        def __call__(self, axis: str, index: int, prompts: object) -> SlicePrediction:
            shown = take_slice(whole[None], axis, index)[0] & (axis in axes)
            return SlicePrediction(np.where(shown, 5, -5).astype(np.float32), 1.0)

    predictor = Painted(session.model, PRESET, session._encoder, CancelToken())
    monkeypatch.setattr(session, "_predictor", lambda cancel: predictor)


def test_no_slice_with_a_box_loses_its_mask_where_the_slices_between_show_nothing(
    session: VolumeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    meant, stray = np.zeros((12, 12, 18), dtype=bool), np.zeros((12, 12, 18), dtype=bool)
    meant[2:9, 2:9, 3:5] = meant[4:6, 4:6, 15] = True  # the first is larger, the second is the user's as well
    stray[2:10, 2:10, 8:11] = True  # the largest
    paint(session, monkeypatch, meant | stray)
    boxes = {3: (1.0, 1.0, 10.0, 10.0), 15: (3.0, 3.0, 7.0, 7.0)}
    session.propagate("axial", boxes)
    assert np.array_equal(session.lps_mask(1)[:12, :12, :18], meant)
    session.propagate("axial", boxes, label=2, keep_connected=False)
    assert np.array_equal(session.lps_mask(2)[:12, :12, :18], meant | stray)
    session.propagate("axial", boxes, label=3, limits=range(4, 12))
    kept = np.flatnonzero(session.lps_mask(3).any(axis=(0, 1)))
    assert list(kept) == [4], "beside a drawn slice outside the limits, the limit stands for it"
    session.propagate("axial", boxes, label=4, limits=range(6, 12))
    assert list(np.flatnonzero(session.lps_mask(4).any(axis=(0, 1)))) == [8, 9, 10], "the largest, where none is left"


def test_a_slice_that_tidying_empties_keeps_no_prompt_and_is_no_slice_of_the_object(
    session: VolumeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    painted = np.zeros((12, 12, 18), dtype=bool)
    painted[2:9, 2:9, 3:6] = painted[2:9, 2:9, 8:11] = True
    paint(session, monkeypatch, painted)
    boxes = {4: (1.0, 1.0, 10.0, 10.0), 14: (1.0, 1.0, 10.0, 10.0)}
    rules = EndRules(max_reach=100)
    assert session.propagate("axial", boxes, rules=rules) == range(3, 6)
    origins = {index: drawn.origin for (_, index), drawn in session.objects[1].prompts.items()}
    assert origins == {3: "propagated", 4: "drawn", 5: "propagated", 14: "drawn"}, "what the user drew stays"


@pytest.mark.parametrize("fuse", [False, True])
def test_a_box_beyond_the_limits_is_enough_where_the_object_reaches_into_them(
    session: VolumeSession, monkeypatch: pytest.MonkeyPatch, fuse: bool
) -> None:
    painted = np.zeros((12, 12, 18), dtype=bool)
    painted[2:9, 2:9, 3:13] = True
    paint(session, monkeypatch, painted)
    boxes, rules, limits = {4: (1.0, 1.0, 10.0, 10.0)}, EndRules(max_reach=100), range(7, 10)
    assert session.propagate("axial", boxes, 1, limits, rules, fuse) == limits
    assert list(np.flatnonzero(session.lps_mask(1).any(axis=(0, 1)))) == list(limits)
    assert set(session.objects[1].prompts) == {("axial", index) for index in limits}
    with pytest.raises(ValueError, match="nothing in the slices that may be changed"):
        session.propagate("axial", boxes, 1, range(14, 18), rules, fuse)


def test_fused_axes_that_agree_on_nothing_are_refused(session: VolumeSession, monkeypatch: pytest.MonkeyPatch) -> None:
    painted = np.zeros((12, 12, 18), dtype=bool)
    painted[2:9, 2:9, 3:6] = True
    paint(session, monkeypatch, painted, axes=("axial",))
    with pytest.raises(ValueError, match="finds nothing"):
        session.propagate("axial", {4: (1.0, 1.0, 10.0, 10.0)}, fuse=True)
    assert not session.objects


def test_what_is_not_connected_and_holes_are_tidied_where_that_is_asked_for(
    session: VolumeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring, speck = np.zeros((9, 9, 3), dtype=bool), np.zeros((9, 9, 3), dtype=bool)
    ring[1:6, 1:6, 1] = True
    ring[3, 3, 1] = False
    speck[8, 8, 1] = True

    def segment(**options: bool) -> np.ndarray:
        session.segment_region(Region((0, 0, 0), (9, 9, 3)), label=1, axes=("axial",), **options)
        return session.lps_mask(1)[:9, :9, :3]

    def propagated(**options: bool) -> np.ndarray:
        session.propagate("axial", {1: (0.0, 0.0, 9.0, 9.0)}, label=2, **options)
        return session.lps_mask(2)[:9, :9, :3]

    paint(session, monkeypatch, ring | speck)
    whole = ring.copy()
    whole[3, 3, 1] = True
    assert np.array_equal(segment(), ring | speck)
    assert np.array_equal(segment(keep_largest=True), ring)
    assert np.array_equal(segment(keep_largest=True, fill=True), whole)
    assert np.array_equal(propagated(fill=False), ring | speck), "both are in the slice that the user drew on"
    assert np.array_equal(propagated(), whole | speck), "holes of what is propagated are filled unless asked otherwise"
