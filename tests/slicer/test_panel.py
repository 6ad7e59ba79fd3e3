"""What the panel does when it is used, with stand-ins for Qt's widgets and Slicer's own MRML."""

import time

import numpy as np
import pytest
from COBOTLib.engines.base import EngineError
from threshold_engine import ThresholdEngine

pytest.importorskip("vtk", reason="needs VTK, which comes with the wheel slicer-core")


@pytest.fixture
def module(mrml):
    from slicer_panel import stood_in

    with stood_in(mrml) as module:
        yield module


@pytest.fixture
def panel(mrml, module, add_view, monkeypatch, tmp_path):
    """The panel, set up in a scene with a red view; it segments what is bright."""
    mrml.mrmlScene.AddNode(mrml.vtkMRMLCrosshairNode())
    view = add_view((8, 7, 5))
    monkeypatch.setattr(module.COBOTLogic, "view", lambda logic: view)
    monkeypatch.setattr(module.COBOTLogic, "place", lambda logic, node, persistent: None)
    monkeypatch.setattr(module.COBOTLogic, "weightsFolder", lambda logic: tmp_path)
    monkeypatch.setattr(module, "InProcessEngine", lambda checkpoint, folder: ThresholdEngine())
    panel = module.COBOTWidget()
    panel.setup()
    yield panel
    panel.cleanup()


@pytest.fixture
def volume(add_volume):
    k, j, i = np.indices((12, 14, 16))
    return add_volume(np.where((k - 5) ** 2 + (j - 7) ** 2 + (i - 8) ** 2 <= 16, 200, 0).astype(np.int16))


def wait(panel):
    """As the timer does."""
    until = time.monotonic() + 20
    while panel.timer.active:
        assert time.monotonic() < until
        panel.onTimer()


def draw_box(panel):
    panel.ui.drawBoxButton.click()
    for corner in ((3, 2, 5), (13, 12, 5)):
        panel.boxNode.AddControlPointWorld(*corner)


def voxels(panel):
    """How many voxels each segment has."""
    masks = panel.session.labels()
    return {name: int(mask.array.sum()) for name, mask in masks.items()}


@pytest.fixture
def ready(panel, volume):
    """The panel after a volume was chosen and Connect was clicked."""
    panel.parameterNode.volume = volume
    panel.ui.testButton.click()
    wait(panel)
    return panel


def test_nothing_can_be_segmented_before_there_is_a_volume_and_an_adapter(panel, volume):
    assert not panel.ui.sliceButton.enabled
    panel.parameterNode.volume = volume
    assert not panel.ui.sliceButton.enabled
    panel.ui.testButton.click()
    wait(panel)
    assert panel.ui.adapterComboBox.items == [("Bright", "bright")]
    assert panel.ui.statusLabel.text == "threshold"
    assert panel.ui.sliceButton.enabled


def test_a_box_becomes_a_mask_that_points_correct_and_that_is_undone_and_done_again(ready):
    draw_box(ready)
    ready.ui.sliceButton.click()
    assert ready.ui.statusLabel.text == "Segmenting..."
    wait(ready)
    assert ready.ui.statusLabel.text == "Done."
    disc = voxels(ready)["Object"]
    assert disc == 49
    ready.negativeNode.AddControlPointWorld(8, 7, 5)
    ready.ui.sliceButton.click()
    wait(ready)
    assert voxels(ready)["Object"] == disc - 9  # a row of the disc
    ready.ui.undoButton.click()
    assert voxels(ready)["Object"] == disc
    ready.ui.redoButton.click()
    assert voxels(ready)["Object"] == disc - 9
    assert not ready.ui.redoButton.enabled


def test_after_an_object_was_accepted_another_box_can_be_drawn(ready):
    draw_box(ready)
    ready.ui.sliceButton.click()
    wait(ready)
    ready.ui.acceptButton.click()
    assert ready.boxNode.GetNumberOfControlPoints() == 0
    assert not ready.ui.acceptButton.enabled
    draw_box(ready)
    np.testing.assert_allclose(ready.boxNode.GetSize()[:2], (10, 10))
    draw_box(ready)  # once more, without an accept between
    np.testing.assert_allclose(ready.boxNode.GetSize()[:2], (10, 10))


def test_what_is_missing_is_said_and_nothing_runs_on(ready, monkeypatch):
    ready.ui.sliceButton.click()
    assert "not drawn yet" in ready.ui.statusLabel.text
    draw_box(ready)

    def fail(*_):
        raise EngineError("The computer is on fire. Leave the room.")

    monkeypatch.setattr(ready.engine, "segment", fail)
    ready.ui.sliceButton.click()
    wait(ready)
    assert ready.ui.statusLabel.text == "The computer is on fire. Leave the room."
    assert not ready.timer.active


def test_nothing_found_is_said_with_what_to_do(ready, volume):
    volume.GetImageData().GetPointData().GetScalars().Fill(0)
    volume.GetImageData().Modified()
    draw_box(ready)
    ready.ui.sliceButton.click()
    wait(ready)
    assert "Nothing was found" in ready.ui.statusLabel.text


def test_while_something_runs_it_can_be_cancelled_and_its_engine_cannot_be_exchanged(ready):
    ready.engine.go_on.clear()
    draw_box(ready)
    ready.ui.sliceButton.click()
    assert ready.engine.reached.wait(10)
    ready.onTimer()
    assert not ready.ui.setupGroup.enabled
    assert not ready.ui.sliceButton.enabled
    ready.ui.cancelButton.click()
    wait(ready)
    assert ready.ui.statusLabel.text == "Cancelled."
    assert ready.ui.setupGroup.enabled
    assert ready.session.object is None


def test_another_place_to_run_has_other_adapters(ready):
    engine = ready.engine
    ready.parameterNode.onServer = True
    assert ready.engine is not engine
    assert ready.ui.adapterComboBox.count == 0
    assert not ready.ui.sliceButton.enabled
    assert ready.ui.serverLineEdit.enabled
    assert not ready.ui.downloadButton.enabled


def test_weights_that_were_downloaded_are_chosen(ready, module, monkeypatch, tmp_path):
    asked = []

    def fetch(file, folder, job):
        asked.append(file.name)
        return folder / file.name

    monkeypatch.setattr(module.weights, "fetch", fetch)
    ready.ui.downloadButton.click()
    wait(ready)
    assert asked == ["sam_vit_b_01ec64.pth"]
    assert ready.parameterNode.checkpoint == tmp_path / "sam_vit_b_01ec64.pth"
    assert "Click Connect" in ready.ui.statusLabel.text
    assert ready.ui.adapterComboBox.count == 0


def test_closing_the_scene_ends_the_session_and_leaves_a_panel_that_works(ready, mrml, add_volume):
    draw_box(ready)
    ready.ui.sliceButton.click()
    wait(ready)
    session = ready.session
    mrml.mrmlScene.Clear(False)
    assert session.closed
    ready.parameterNode.volume = add_volume(np.zeros((4, 5, 6), np.int16))
    assert ready.ui.sliceButton.enabled


def test_shortcuts_are_there_only_while_the_module_is_shown(ready):
    ready.enter()
    assert len(ready.shortcuts) == 6
    ready.exit()
    assert ready.shortcuts == []
