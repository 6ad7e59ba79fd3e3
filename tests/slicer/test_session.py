import time

import numpy as np
import pytest
from COBOTLib.engines.base import EngineError
from COBOTLib.geometry import GeometryError, grid_of, rectangle_in_view, voxels_inside
from COBOTLib.grid import VoxelBox
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
    assert not run(SlicePrompt(2, 5, BOX)).any()
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
