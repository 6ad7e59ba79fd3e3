import time

import numpy as np
import pytest
from COBOTLib.drawing import propagation
from COBOTLib.engines.base import EngineError
from COBOTLib.geometry import GeometryError, grid_of, rectangle_in_view, voxels_inside
from COBOTLib.grid import VoxelBox, VoxelMask
from COBOTLib.jobs import Background, State
from COBOTLib.plane import plane_grid
from COBOTLib.prompts import PromptError, PropagationPrompt, RegionPrompt, SlicePrompt, points_in, slice_prompt
from COBOTLib.segmentation import Overwrite, SegmentationError
from COBOTLib.session import Session, SessionError
from spaces import SPACES, rotation
from threshold_engine import ThresholdEngine

SHAPE = (12, 14, 16)  # (K, J, I)
BOX = VoxelBox((2, 3, 5), (14, 12, 6))


@pytest.fixture
def image():
    k, j, i = np.indices(SHAPE)
    return np.where((k - 5) ** 2 + (j - 7) ** 2 + (i - 8) ** 2 <= 16, 200, 0).astype(np.int16)


@pytest.fixture
def volume(add_volume, image):
    return add_volume(image, SPACES["oblique anisotropic"])


@pytest.fixture
def engine():
    return ThresholdEngine()


@pytest.fixture
def background():
    background = Background()
    yield background
    assert background.close()


@pytest.fixture
def session(mrml, volume, engine, background):
    node = mrml.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Organs")
    session = Session(volume, node, engine, background)
    yield session
    session.close()


@pytest.fixture
def segment(session):
    return session.writer.add_segment("liver")


def finish(background, seconds=20):
    deadline = time.monotonic() + seconds
    while not background.update():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def run(session, segment, background):
    """Segments to the end; gives what the segment then is, (K, J, I) bool."""

    def do(prompt, **options):
        session.segment(prompt, segment, "bright", **options)
        finish(background)
        return whole(session, segment)

    return do


def whole(session, segment):
    result = np.zeros(SHAPE, bool)
    mask = session.writer.read(segment)
    if mask is not None:
        result[mask.box.slices] = mask.array
    return result


def only_slice(image, index):
    expected = np.zeros(SHAPE, bool)
    expected[index] = image[index] > 100
    return expected


def test_the_mask_of_a_box_comes_into_the_segment_when_it_is_delivered(session, segment, background, image):
    session.segment(SlicePrompt(2, 5, BOX), segment, "bright")
    assert not whole(session, segment).any()
    finish(background)
    assert (whole(session, segment) == only_slice(image, 5)).all()


def test_another_prompt_for_the_same_slice_replaces_its_mask_and_one_for_another_slice_joins_it(run, image):
    run(SlicePrompt(2, 5, BOX))
    corrected = run(SlicePrompt(2, 5, BOX, negative=((8, 7, 5),)))
    assert not corrected[5, 7].any()
    assert corrected[5, 6].any()
    both = run(SlicePrompt(2, 6, VoxelBox((2, 3, 6), (14, 12, 7))))
    assert (both == (corrected | only_slice(image, 6))).all()


def test_a_3d_prompt_replaces_the_whole_object(run, image):
    run(SlicePrompt(2, 5, VoxelBox((0, 0, 5), (16, 14, 6))))
    box = VoxelBox((6, 6, 6), (10, 9, 9))
    expected = np.zeros(SHAPE, bool)
    expected[box.slices] = (image > 100)[box.slices]
    assert (run(RegionPrompt(2, box)) == expected).all()
    assert (run(PropagationPrompt(2, (BOX,))) == only_slice(image, 5)).all()


def test_propagation_keeps_the_slices_that_it_starts_from_as_they_were_corrected(session, run, image):
    run(SlicePrompt(2, 5, BOX, negative=((8, 7, 5),)))
    run(SlicePrompt(2, 8, VoxelBox((2, 3, 8), (14, 12, 9))))
    run(SlicePrompt(2, 4, VoxelBox((2, 3, 4), (7, 12, 5)), negative=((5, 6, 4),)))
    corrected = whole(session, session.object.edit.segment_id)
    request = propagation(session.object)
    assert [box.low[2] for box in request.prompt.boxes] == [4, 5, 8]
    found = run(request.prompt)
    for kept in (4, 5, 8):
        assert (found[kept] == corrected[kept]).all()
    for new in (6, 7):
        assert found[new].any()
    after = run(SlicePrompt(2, 6, VoxelBox((2, 3, 6), (14, 12, 7)), negative=((8, 7, 6),)))
    assert [box.low[2] for box in propagation(session.object).prompt.boxes] == [4, 5, 6, 8]
    assert (after[5] == corrected[5]).all()
    session.undo()
    session.undo()
    assert (whole(session, session.object.edit.segment_id) == corrected).all()


def test_a_prompt_that_finds_nothing_changes_nothing_and_is_said(session, segment, run, background):
    before = run(SlicePrompt(2, 5, BOX))
    assert session.found
    item = session.object
    assert (run(SlicePrompt(2, 5, VoxelBox((0, 0, 5), (2, 2, 6)))) == before).all()
    assert not session.found
    assert session.object is item
    session.segment(SlicePrompt(2, 0, VoxelBox((0, 0, 0), (2, 2, 1))), None, "bright")
    finish(background)
    assert tuple(session.writer.node.GetSegmentation().GetSegmentIDs()) == (segment,)


def test_a_new_segment_is_made_for_a_mask_alone_and_goes_with_its_undo(session, background, engine):
    segments = session.writer.node.GetSegmentation()
    session.segment(SlicePrompt(2, 5, BOX), None, "bright")
    assert segments.GetNumberOfSegments() == 0
    background.cancel()
    finish(background)
    session.segment(SlicePrompt(2, 5, BOX), None, "dark")
    with pytest.raises(EngineError):
        finish(background)
    assert segments.GetNumberOfSegments() == 0
    session.segment(SlicePrompt(2, 5, BOX), None, "bright")
    finish(background)
    segment = session.object.edit.segment_id
    segments.GetSegment(segment).SetName("kidney")
    found = whole(session, segment)
    session.segment(SlicePrompt(2, 6, VoxelBox((2, 3, 6), (14, 12, 7))), segment, "bright")
    finish(background)
    both = whole(session, segment)
    assert session.undo()
    assert session.undo()
    assert segments.GetNumberOfSegments() == 0
    assert session.redo()
    assert segments.GetSegment(segment).GetName() == "kidney"
    assert (whole(session, segment) == found).all()
    assert session.redo()
    assert (whole(session, segment) == both).all()


def test_undo_leaves_a_new_segment_in_which_the_user_painted(session, background):
    session.segment(SlicePrompt(2, 5, BOX), None, "bright")
    finish(background)
    segment = session.object.edit.segment_id
    by_hand = VoxelBox((0, 0, 0), (2, 2, 2))
    session.writer.write(segment, VoxelMask(by_hand, np.ones(by_hand.shape, bool)))
    session.undo()
    assert session.writer.read(segment).box == by_hand
    session.redo()
    assert whole(session, segment).sum() > 8


def test_steps_in_a_segment_that_was_removed_do_not_bar_the_older_ones(session, segment, run, background):
    run(SlicePrompt(2, 5, BOX))
    other = session.writer.add_segment("spleen")
    session.segment(SlicePrompt(2, 6, VoxelBox((2, 3, 6), (14, 12, 7))), other, "bright")
    finish(background)
    session.writer.node.GetSegmentation().RemoveSegment(other)
    assert session.object is None
    assert session.can_undo
    assert session.undo()
    assert not whole(session, segment).any()
    assert not session.can_undo
    session.redo()
    session.writer.node.GetSegmentation().RemoveSegment(segment)
    assert not session.can_undo
    assert not session.undo()


@pytest.mark.parametrize("at", ["before", "meanwhile", "undo"])
def test_a_segmentation_that_was_put_under_a_warp_keeps_its_mask(mrml, session, segment, run, background, at):
    before = run(SlicePrompt(2, 5, BOX))
    warp = mrml.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "Breathing")
    prompt = RegionPrompt(2, VoxelBox((0, 0, 0), (16, 14, 12)))
    if at == "meanwhile":
        session.segment(prompt, segment, "bright")
    session.writer.node.SetAndObserveTransformNodeID(warp.GetID())
    change = {
        "before": lambda: session.segment(prompt, segment, "bright"),
        "meanwhile": lambda: finish(background),
        "undo": session.undo,
    }[at]
    with pytest.raises(GeometryError, match="Breathing"):
        change()
    assert background.state is State.IDLE
    session.writer.node.SetAndObserveTransformNodeID(None)
    assert (whole(session, segment) == before).all()
    assert session.undo()
    assert not whole(session, segment).any()


def test_segments_of_the_same_name_are_not_sent_as_one(session, segment, run):
    run(SlicePrompt(2, 5, BOX))
    assert session.labels().keys() == {"liver"}
    empty = session.writer.add_segment("liver")
    assert session.labels().keys() == {"liver"}
    session.writer.write(empty, VoxelMask(VoxelBox((0, 0, 0), (1, 1, 1)), np.ones((1, 1, 1), bool)))
    with pytest.raises(SegmentationError, match='Two segments are called "liver"'):
        session.labels()


def test_a_correction_makes_the_surface_in_3d_views_anew_once_and_leaves_those_of_other_segments(
    session, segment, run, monkeypatch
):
    run(SlicePrompt(2, 5, BOX))
    segmentation = session.writer.node.GetSegmentation()
    spleen = session.writer.add_segment("spleen")
    box = VoxelBox((0, 0, 0), (3, 3, 3))
    session.writer.write(spleen, VoxelMask(box, np.ones(box.shape, bool)))
    session.writer.node.CreateClosedSurfaceRepresentation()
    before = {name: segmentation.GetSegment(name).GetRepresentation("Closed surface") for name in (segment, spleen)}
    made, make = [], session.writer._make_surfaces
    monkeypatch.setattr(session.writer, "_make_surfaces", lambda valid: (made.append(set(valid)), make(valid)))
    run(SlicePrompt(2, 5, BOX, negative=((8, 7, 5),)))
    assert made == [{spleen}]
    after = {name: segmentation.GetSegment(name).GetRepresentation("Closed surface") for name in (segment, spleen)}
    assert after[spleen] is before[spleen]
    assert after[segment].GetNumberOfPoints() > 0
    assert after[segment] is not before[segment]


def test_undo_and_redo_walk_through_prompts_also_of_objects_that_were_accepted(session, segment, run):
    states = [whole(session, segment)]
    for step in range(6):
        k = 3 + step % 4
        states.append(run(SlicePrompt(2, k, VoxelBox((2, 3, k), (14 - step, 12, k + 1)))))
        if step == 2:
            session.accept()
    assert not session.can_redo
    for state in reversed(states[:-1]):
        assert session.undo()
        assert (whole(session, segment) == state).all()
    assert not session.undo()
    for state in states[1:]:
        assert session.redo()
        assert (whole(session, segment) == state).all()
    assert session.object.prompt.index == 4
    assert not session.redo()


def test_the_oldest_steps_are_forgotten_where_undo_would_take_too_much_memory(session, run, monkeypatch):
    run(SlicePrompt(2, 5, BOX))
    monkeypatch.setattr("COBOTLib.session._UNDO_BYTES", 4 * session.object.mask.array.nbytes)
    for k in (4, 5, 6, 7):
        before = whole(session, session.object.edit.segment_id)
        run(SlicePrompt(2, k, VoxelBox((2, 3, k), (14, 12, k + 1))))
    segment = session.object.edit.segment_id
    assert session.undo()
    assert (whole(session, segment) == before).all()
    while session.undo():
        pass
    assert whole(session, segment).any()  # what the forgotten steps found stays


def test_a_prompt_after_undo_forgets_what_was_undone(session, run):
    run(SlicePrompt(2, 5, BOX))
    session.undo()
    run(SlicePrompt(2, 6, VoxelBox((2, 3, 6), (14, 12, 7))))
    assert not session.can_redo


def test_an_accepted_object_stays_when_the_next_one_is_prompted_in_the_same_slice(session, run, image):
    left = run(SlicePrompt(2, 5, VoxelBox((2, 3, 5), (8, 12, 6))))
    session.accept()
    assert session.object is None
    both = run(SlicePrompt(2, 5, VoxelBox((9, 3, 5), (14, 12, 6))))
    assert both[left].all()
    assert both.sum() > left.sum()


def test_an_object_that_shrinks_gives_back_what_it_took_from_others(session, run, background):
    spleen = session.writer.add_segment("spleen")
    session.segment(SlicePrompt(2, 5, BOX), spleen, "bright")
    finish(background)
    before = whole(session, spleen)
    run(SlicePrompt(2, 5, BOX))
    assert not whole(session, spleen).any()
    run(SlicePrompt(2, 5, VoxelBox((2, 3, 5), (6, 12, 6))))
    assert (whole(session, spleen)[:, :, 6:] == before[:, :, 6:]).all()
    run(SlicePrompt(2, 5, BOX), overwrite=Overwrite.NONE)
    assert (whole(session, spleen) == before).all()


def test_what_was_erased_by_hand_stays_erased(mrml, session, segment, run):
    run(SlicePrompt(2, 5, BOX))
    labelmap = mrml.util.arrayFromSegmentInternalBinaryLabelmap(session.writer.node, segment)
    box = VoxelBox.from_extent(
        session.writer.node.GetSegmentation().GetSegment(segment).GetRepresentation("Binary labelmap").GetExtent()
    )
    labelmap[5 - box.low[2], 7 - box.low[1]] = 0
    after = run(SlicePrompt(2, 6, VoxelBox((2, 3, 6), (14, 12, 7))))
    assert not after[5, 7].any()
    assert after[5, 6].any()


def test_cancel_in_mid_run_leaves_the_scene_as_it_was(session, segment, run, engine, background):
    before = run(SlicePrompt(2, 5, BOX))
    changed = []
    session.writer.node.AddObserver("ModifiedEvent", lambda *_: changed.append(True))
    session.writer.node.GetSegmentation().AddObserver("AnyEvent", lambda *_: changed.append(True))
    engine.go_on.clear()
    engine.reached.clear()
    session.segment(RegionPrompt(2, VoxelBox((0, 0, 0), (16, 14, 12))), segment, "bright")
    assert engine.reached.wait(20)
    with pytest.raises(SessionError, match="cancel it"):
        session.undo()
    background.cancel()
    finish(background)
    assert background.state is State.IDLE
    assert (whole(session, segment) == before).all()
    assert not changed
    assert session.undo()


@pytest.mark.parametrize("what", ["volume", "segmentation", "scene"])
def test_what_is_removed_while_a_job_runs_is_never_touched_again(
    mrml, session, segment, engine, background, volume, what
):
    engine.go_on.clear()
    session.segment(SlicePrompt(2, 5, BOX), segment, "bright")
    assert engine.reached.wait(20)
    if what == "scene":
        mrml.mrmlScene.Clear(False)
    else:
        mrml.mrmlScene.RemoveNode(volume if what == "volume" else session.writer.node)
    assert session.closed
    finish(background)
    assert session.object is None
    with pytest.raises(SessionError, match="no longer in the scene"):
        session.segment(SlicePrompt(2, 5, BOX), segment, "bright")


def test_other_nodes_may_come_and_go(mrml, session):
    node = mrml.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    mrml.mrmlScene.RemoveNode(node)
    assert not session.closed


def test_a_segment_removed_while_a_job_runs_is_reported(session, segment, engine, background):
    engine.go_on.clear()
    session.segment(SlicePrompt(2, 5, BOX), segment, "bright")
    assert engine.reached.wait(20)
    session.writer.node.GetSegmentation().RemoveSegment(segment)
    engine.go_on.set()
    with pytest.raises(SegmentationError, match="Choose or add a segment"):
        finish(background)
    assert background.state is State.IDLE


def test_what_goes_wrong_in_the_engine_reaches_the_user_and_changes_nothing(session, segment, background):
    session.segment(SlicePrompt(2, 5, BOX), segment, "dark")
    with pytest.raises(EngineError, match="no adapter dark"):
        finish(background)
    assert not session.can_undo


def test_the_engine_reads_a_copy_that_stays_the_same_until_the_volume_changes(mrml, run, engine, volume, image):
    run(SlicePrompt(2, 5, BOX))
    run(SlicePrompt(2, 5, BOX))
    assert engine.scans[0] is engine.scans[1]
    mrml.util.arrayFromVolume(volume)[:] = 0
    assert (engine.scans[0].array == image).all()
    mrml.util.arrayFromVolumeModified(volume)
    run(SlicePrompt(2, 5, BOX))
    assert not engine.scans[2].array.any()
    assert engine.scans[2].key != engine.scans[0].key


def test_a_box_in_an_oblique_view_segments_what_is_seen_there(run, volume, add_view, add_roi, image, engine):
    grid = grid_of(volume)
    middle = grid.to_ras(np.array([[8.0, 7.0, 5.0]]))[0]
    directions = SPACES["oblique anisotropic"][:3, :3] / grid.spacing @ rotation((1, 0, 0), 70)
    view = add_view(middle, directions[:, 0], directions[:, 1])
    plane = plane_grid(grid, view)
    box = voxels_inside(plane, rectangle_in_view(add_roi(middle, (8, 40, 8), directions), view))
    found = run(SlicePrompt(2, 0, box), plane=plane)
    assert engine.scans[0].array.shape == plane.dimensions[::-1]
    assert (engine.scans[0].volume.array == image).all()
    assert found.any()
    bright = image > 100
    assert (found & bright).sum() > 0.8 * found.sum()
    # the plane leaves the ball (radius 4) at k = 5 +- 1.9
    assert set(np.nonzero(found)[0].tolist()) == {4, 5, 6}


def test_points_become_voxels_and_those_of_other_slices_wait(mrml, volume):
    grid = grid_of(volume)
    node = mrml.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Inside")
    for voxel in [(8, 7, 5), (3.4, 2.6, 6)]:
        node.AddControlPointWorld(*grid.to_ras(np.array([voxel], dtype=float))[0])
    assert points_in(node, grid) == ((8, 7, 5), (3, 3, 6))
    prompt = slice_prompt(2, 5, BOX, points_in(node, grid), ())
    assert prompt.positive == ((8, 7, 5),)
    node.AddControlPointWorld(*grid.to_ras(np.array([[99.0, 0, 0]]))[0])
    with pytest.raises(GeometryError, match="outside the volume"):
        points_in(node, grid)


def test_prompts_that_cannot_be_segmented_say_why():
    with pytest.raises(PromptError, match="Draw a box around the object first"):
        SlicePrompt(2, 5, None, negative=((1, 1, 5),))
    with pytest.raises(PromptError, match=r"slices \[5, 6\]"):
        SlicePrompt(2, 5, BOX, positive=((1, 1, 6),))
    with pytest.raises(PromptError, match="Segment the object in one slice first"):
        PropagationPrompt(2, ())
