"""What the panel does when it is used, with stand-ins for Qt's widgets and Slicer's own MRML."""

import time

import numpy as np
import pytest
from COBOTLib.engines.base import AdapterInfo, EngineError
from label_server import LabelServer
from threshold_engine import ThresholdEngine

pytest.importorskip("vtk", reason="needs VTK, which comes with the wheel slicer-core")


@pytest.fixture
def module(mrml):
    from slicer_panel import stood_in

    with stood_in(mrml) as module:
        yield module


@pytest.fixture
def panel(mrml, module, add_view, monkeypatch, tmp_path):
    """The panel, set up in a scene with a view that the mouse is in; it segments what is bright."""
    crosshair = mrml.mrmlScene.AddNode(mrml.vtkMRMLCrosshairNode())
    mrml.app.cachePath = str(tmp_path)
    monkeypatch.setattr(module, "InProcessEngine", lambda checkpoint, folder: ThresholdEngine())
    panel = module.COBOTWidget()
    panel.setup()
    crosshair.SetCursorPositionXYZ([1.0, 2.0, 0.0], add_view((8, 7, 5)))
    yield panel
    panel.cleanup()


@pytest.fixture
def server(monkeypatch):
    with LabelServer() as server:
        yield server


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
        panel.parameterNode.box.AddControlPointWorld(*corner)


def place(panel, where, *points):
    """Points "positive" or "negative"; the clicks in a view are the application's."""
    getattr(panel.ui, f"{where}Button").click()
    for point in points:
        getattr(panel, f"{where}Node").AddControlPointWorld(*point)


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
    place(ready, "negative", (8, 7, 5))
    ready.ui.sliceButton.click()
    wait(ready)
    assert voxels(ready)["Object"] == disc - 9  # a row of the disc
    ready.ui.undoButton.click()
    assert voxels(ready)["Object"] == disc
    ready.ui.redoButton.click()
    assert voxels(ready)["Object"] == disc - 9
    assert not ready.ui.redoButton.enabled


def test_a_box_alone_leaves_no_empty_points_in_the_scene(ready, mrml):
    draw_box(ready)
    ready.ui.sliceButton.click()
    wait(ready)
    assert voxels(ready) == {"Object": 49}
    assert mrml.mrmlScene.GetNumberOfNodesByClass("vtkMRMLMarkupsFiducialNode") == 0


def test_after_an_object_was_accepted_another_box_can_be_drawn(ready):
    draw_box(ready)
    ready.ui.sliceButton.click()
    wait(ready)
    ready.ui.acceptButton.click()
    assert ready.parameterNode.box is None
    assert not ready.ui.acceptButton.enabled
    draw_box(ready)
    np.testing.assert_allclose(ready.parameterNode.box.GetSize()[:2], (10, 10))
    draw_box(ready)  # once more, without an accept between
    np.testing.assert_allclose(ready.parameterNode.box.GetSize()[:2], (10, 10))


def test_what_is_missing_is_said_and_nothing_runs_on(ready, monkeypatch):
    ready.ui.sliceButton.click()
    assert "Nothing is drawn yet" in ready.ui.statusLabel.text
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
    assert ready.parameterNode.segmentation is None
    assert ready.session.closed


def test_while_something_runs_it_can_be_cancelled_and_its_engine_cannot_be_exchanged(ready, mrml):
    ready.engine.go_on.clear()
    draw_box(ready)
    ready.ui.sliceButton.click()
    assert ready.engine.reached.wait(10)
    ready.onTimer()
    assert not ready.ui.setupGroup.enabled
    assert not ready.ui.sliceButton.enabled
    assert ready.ui.progressBar.range == (0, 10)
    assert ready.ui.progressBar.visible
    ready.ui.cancelButton.click()
    wait(ready)
    assert ready.ui.statusLabel.text == "Cancelled."
    assert ready.ui.setupGroup.enabled
    assert not ready.ui.progressBar.visible
    assert mrml.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0


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
    assert ready.parameterNode.checkpoint == tmp_path / "COBOT" / "sam_vit_b_01ec64.pth"
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


def test_shortcuts_are_there_only_while_the_module_is_shown_and_do_what_their_button_does(ready, module, repository):
    ready.enter()
    assert len(ready.shortcuts) == 6
    keys = dict(zip(module._KEYS, ready.shortcuts, strict=True))
    keys["Ctrl+B"].emit()
    assert ready.parameterNode.box is not None
    draw_box(ready)
    keys["Ctrl+Return"].emit()
    wait(ready)
    assert voxels(ready) == {"Object": 49}
    keys["Ctrl+Shift+Z"].emit()
    assert not ready.session.can_undo
    keys["Ctrl+Shift+Y"].emit()
    assert voxels(ready) == {"Object": 49}
    keys["Ctrl+Shift+Return"].emit()
    assert ready.session.object is None
    panel = (repository / "SlicerCOBOT" / "Resources" / "UI" / "COBOT.ui").read_text(encoding="utf-8")
    docs = (repository / "docs" / "slicer.md").read_text(encoding="utf-8")
    for key in module._KEYS:
        assert f"({key})</string>" in panel
        assert f"`{key}`" in docs
    ready.exit()
    assert ready.shortcuts == []


def test_keys_do_nothing_where_their_button_is_disabled(panel, volume, module):
    panel.enter()
    for shortcut in panel.shortcuts:
        shortcut.emit()
    assert panel.session is None
    assert not panel.timer.active
    panel.parameterNode.volume = None
    draw_box(panel)
    for shortcut in panel.shortcuts:
        shortcut.emit()
    assert panel.ui.statusLabel.text == ""


def test_draw_box_lets_clicks_in_the_views_place_it_until_the_module_is_left(ready, mrml):
    interaction = mrml.app.applicationLogic().GetInteractionNode()
    selection = mrml.app.applicationLogic().GetSelectionNode()
    ready.ui.drawBoxButton.click()
    assert interaction.GetCurrentInteractionMode() == interaction.Place
    assert selection.GetActivePlaceNodeID() == ready.parameterNode.box.GetID()
    assert not interaction.GetPlaceModePersistence()
    ready.ui.positiveButton.click()
    assert selection.GetActivePlaceNodeID() == ready.positiveNode.GetID()
    assert interaction.GetPlaceModePersistence()
    ready.exit()
    assert interaction.GetCurrentInteractionMode() == interaction.ViewTransform
    assert ready.ui.segmentEditorWidget.called == ["setActiveEffect(None)", "removeViewObservations()"]


def test_what_is_segmented_is_what_the_view_shows_that_the_mouse_was_in_last(ready, mrml, add_view):
    crosshair = mrml.util.getNode("Crosshair")
    draw_box(ready)
    ready.parameterNode.box.SetSize(10, 10, 8)
    crosshair.SetCursorPositionXYZ([1.0, 2.0, 0.0], add_view((8, 8, 5), (1, 0, 0), (0, 0, 1)))
    crosshair.SetCursorPositionXYZ([1.0, 2.0, 0.0], None)  # over the panel
    ready.ui.sliceButton.click()
    wait(ready)
    assert (ready.session.object.prompt.axis, ready.session.object.prompt.index) == (1, 8)


def test_points_alone_are_enough(ready):
    place(ready, "positive", (8, 7, 5))
    place(ready, "negative", (8, 8, 5))
    ready.ui.sliceButton.click()
    wait(ready)
    assert ready.session.object.prompt.box is None
    assert ready.session.object.prompt.positive == ((8, 7, 5),)
    assert voxels(ready)["Object"] == 49 - 7  # a row of the disc


def test_any_roi_of_the_scene_can_be_the_box_and_stays_after_accept(ready, mrml, add_roi):
    roi = add_roi((8, 7, 5), (20, 20, 4), name="of the user")
    ready.parameterNode.box = roi
    ready.ui.regionButton.click()
    wait(ready)
    mask = ready.session.object.mask
    assert (mask.box.low[2], mask.box.high[2]) == (3, 8)
    ready.ui.acceptButton.click()
    assert ready.parameterNode.box is roi


def test_propagation_starts_from_what_was_segmented(ready):
    assert not ready.ui.propagateButton.enabled
    draw_box(ready)
    ready.ui.sliceButton.click()
    wait(ready)
    place(ready, "negative", (8, 7, 5))
    ready.ui.sliceButton.click()
    wait(ready)
    ready.ui.propagateButton.click()
    wait(ready)
    assert voxels(ready)["Object"] == 49 - 9  # the engine of the test finds no more slices; this one stays corrected
    assert len(ready.session.object.prompt.boxes) == 1


def test_the_window_of_the_volume_is_the_preset_where_the_user_says_so(ready, volume):
    draw_box(ready)
    ready.ui.sliceButton.click()
    wait(ready)
    ready.parameterNode.useWindow = True
    volume.CreateDefaultDisplayNodes()
    volume.GetDisplayNode().SetAutoWindowLevel(False)
    volume.GetDisplayNode().SetWindowLevel(400, 40)
    ready.ui.sliceButton.click()
    wait(ready)
    assert ready.engine.presets == [None, "window:-160,240"]


@pytest.mark.parametrize("mode", ["OverwriteAllSegments", "OverwriteVisibleSegments", "OverwriteNone"])
def test_other_segments_are_overwritten_as_the_segment_editor_says(ready, mode):
    draw_box(ready)
    ready.ui.sliceButton.click()
    wait(ready)
    ready.ui.acceptButton.click()
    segmentation = ready.parameterNode.segmentation
    (first,) = segmentation.GetSegmentation().GetSegmentIDs()
    segmentation.GetSegmentation().GetSegment(first).SetName("hidden")
    segmentation.GetDisplayNode().SetSegmentVisibility(first, False)
    ready.editorNode.SetOverwriteMode(getattr(ready.editorNode, mode))
    ready.editorNode.SetSelectedSegmentID(ready.session.writer.add_segment("new"))
    draw_box(ready)
    ready.ui.sliceButton.click()
    wait(ready)
    expected = {"new": 49} if mode == "OverwriteAllSegments" else {"hidden": 49, "new": 49}
    assert voxels(ready) == expected


def test_what_can_be_undone_stays_when_the_place_to_run_changes(ready, server):
    draw_box(ready)
    ready.ui.sliceButton.click()
    wait(ready)
    session = ready.session
    for typed in ("h", "ht", server.address):
        ready.parameterNode.server = typed
    ready.parameterNode.onServer = True
    assert ready.session is session
    assert ready.ui.undoButton.enabled
    ready.ui.testButton.click()
    wait(ready)
    place(ready, "negative", (8, 7, 5))
    ready.ui.sliceButton.click()
    wait(ready)
    assert ready.ui.statusLabel.text == "Done."
    assert server.params
    ready.ui.undoButton.click()
    ready.ui.undoButton.click()
    assert ready.parameterNode.segmentation.GetSegmentation().GetNumberOfSegments() == 0
    ready.ui.redoButton.click()
    assert voxels(ready)["Object"] == 49


def test_an_engine_that_works_is_closed_only_behind_its_work_and_what_it_finds_is_dropped(ready, mrml, add_volume):
    engine = ready.engine
    engine.go_on.clear()
    engine.deaf = True  # as one that is busy with what cannot be stopped
    draw_box(ready)
    ready.ui.sliceButton.click()
    assert engine.reached.wait(10)
    mrml.mrmlScene.Clear(False)
    ready.parameterNode.server = "http://elsewhere"  # as a scene that was saved with other settings
    assert ready.engine is None
    assert not engine.closed
    engine.go_on.set()
    wait(ready)
    assert ready.background.close()
    assert engine.closed
    assert mrml.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0


def test_connecting_is_cancelled_with_the_scene(ready, mrml, server):
    server.behaviour = "hang"
    ready.parameterNode.server, ready.parameterNode.onServer = server.address, True
    ready.ui.testButton.click()
    assert server.reached.wait(10)
    mrml.mrmlScene.Clear(False)
    wait(ready)
    assert ready.ui.statusLabel.text == "Cancelled."
    assert ready.ui.adapterComboBox.count == 0


def test_there_is_one_editor_node_however_often_the_module_is_loaded(ready, module, mrml):
    again = module.COBOTWidget()
    again.setup()
    assert mrml.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentEditorNode") == 1
    again.cleanup()


def test_nothing_is_installed_or_downloaded_unless_the_user_agrees(ready, module, mrml, monkeypatch):
    questions, installed = [], []
    monkeypatch.setattr(module.packages, "missing", lambda: ["torch", "monai-cobot 0.1.0"])
    monkeypatch.setattr(module.packages, "install", lambda *of: installed.append(of))
    monkeypatch.setattr(module.weights, "fetch", lambda *of: installed.append(of))
    mrml.util.confirmOkCancelDisplay = lambda text: questions.append(text)
    ready.ui.installButton.click()
    ready.ui.downloadButton.click()
    assert questions[0] == "Install torch, monai-cobot 0.1.0?"
    assert "375 MB" in questions[1]
    assert installed == []
    assert not ready.timer.active
    mrml.util.confirmOkCancelDisplay = lambda text: True
    mrml.util.pip_install = "pip"
    ready.ui.installButton.click()
    assert installed == [(None, "pip")]
    assert "Click Connect" in ready.ui.statusLabel.text


@pytest.fixture
def connected(ready, server):
    """The panel, connected to a server."""
    ready.parameterNode.server, ready.parameterNode.onServer = server.address, True
    ready.ui.testButton.click()
    wait(ready)
    return ready


def wait_for_training(panel, until):
    """As the timer does."""
    deadline = time.monotonic() + 20
    while not until():
        assert time.monotonic() < deadline
        panel.onTrainingTimer()
        time.sleep(0.01)


def test_segments_are_sent_and_a_training_is_started_followed_and_its_adapter_listed(connected, server):
    panel = connected
    assert panel.ui.adapterComboBox.items == [("bright one", "bright one")]
    draw_box(panel)
    panel.ui.sliceButton.click()
    wait(panel)
    panel.ui.submitButton.click()
    wait(panel)
    (image_id,) = server.labels
    assert image_id in panel.ui.statusLabel.text
    panel.ui.trainButton.click()
    wait(panel)
    wait_for_training(panel, lambda: "running" in panel.ui.trainingLabel.text)
    assert "epoch 2/8" in panel.ui.trainingLabel.text
    assert not panel.ui.trainButton.enabled
    assert panel.ui.sliceButton.enabled  # one can segment meanwhile
    server.training = "DONE"
    wait_for_training(panel, lambda: not panel.trainingTimer.active)
    assert [title for title, _ in panel.ui.adapterComboBox.items] == ["bright one", "trained"]
    assert panel.ui.trainButton.enabled
    assert not panel.ui.stopTrainingButton.enabled


def test_a_training_is_stopped(connected, server):
    connected.ui.trainButton.click()
    wait(connected)
    wait_for_training(connected, lambda: connected.ui.stopTrainingButton.enabled)
    connected.ui.stopTrainingButton.click()
    wait(connected)
    assert server.training == "STOPPED"
    wait_for_training(connected, lambda: not connected.trainingTimer.active)
    assert "stopped" in connected.ui.trainingLabel.text


def test_a_server_that_goes_while_it_trains_is_said_once(connected, server):
    connected.ui.trainButton.click()
    wait(connected)
    server.shutdown()
    server.server_close()
    wait_for_training(connected, lambda: not connected.trainingTimer.active)
    assert "No server answers" in connected.ui.statusLabel.text


def test_the_adapter_that_was_chosen_stays_chosen_when_the_list_is_made_anew_also_from_a_saved_scene(connected, server):
    server.training = "DONE"
    connected.ui.testButton.click()
    wait(connected)
    connected.ui.adapterComboBox.choose(1)
    assert connected.parameterNode.adapter == "trained"
    connected.ui.testButton.click()
    wait(connected)
    assert connected.ui.adapterComboBox.currentData == "trained"


def test_a_new_adapter_in_front_of_the_list_does_not_take_the_place_of_what_segments(connected):
    before = connected.ui.adapterComboBox.currentData
    for chosen in ("", "of another scene"):
        connected.parameterNode.adapter = chosen
        connected.listAdapters([AdapterInfo("new", "new"), AdapterInfo(before, before)])
        assert connected.ui.adapterComboBox.currentData == before


@pytest.mark.parametrize(("body", "error"), [("pass", None), ("assert False", "1 failed"), (None, "0 tests")])
def test_the_self_test_fails_where_a_test_of_it_fails(module, tmp_path, body, error):
    if body is not None:
        text = f"import unittest\nclass T(unittest.TestCase):\n    def test_it(self):\n        {body}\n"
        (tmp_path / f"COBOT{len(body)}Test.py").write_text(text, encoding="utf-8")
    test = module.COBOTTest()
    test.folder = tmp_path
    if error is None:
        test.runTest()
    else:
        with pytest.raises(AssertionError, match=error):
            test.runTest()
    test.folder = tmp_path / "gone"
    with pytest.raises(RuntimeError, match="CTest"):
        test.runTest()
