"""What only the application can show: run inside 3D Slicer, by its self-test button or CTest."""

import pathlib
import time
import unittest

import numpy as np
import slicer
from COBOTLib import packages


class COBOTPanelTest(unittest.TestCase):
    """The panel with Slicer's real widgets."""

    def setUp(self):
        slicer.mrmlScene.Clear(False)
        slicer.util.selectModule("COBOT")
        self.widget = slicer.modules.cobot.widgetRepresentation().self()

    def wait(self, seconds=120):
        until = time.monotonic() + seconds
        while self.widget.timer.active:
            assert time.monotonic() < until, f"{self.widget.ui.statusLabel.text} does not end"
            slicer.app.processEvents()

    def test_volumes_of_the_scene_can_be_chosen_and_nothing_can_be_segmented_without_one(self):
        assert not self.widget.ui.sliceButton.enabled
        volume = slicer.util.addVolumeFromArray(np.zeros((4, 5, 6), np.int16))
        self.widget.parameterNode.volume = volume
        assert self.widget.ui.volumeSelector.currentNode() is volume

    def test_a_server_that_is_not_there_is_said_in_the_panel(self):
        self.widget.parameterNode.onServer = True
        self.widget.parameterNode.server = "http://127.0.0.1:9"
        self.widget.ui.testButton.click()
        self.wait()
        assert "No server answers" in self.widget.ui.statusLabel.text

    def test_closing_the_scene_ends_the_session(self):
        self.widget.parameterNode.volume = slicer.util.addVolumeFromArray(np.zeros((4, 5, 6), np.int16))
        session = self.widget.currentSession()
        slicer.mrmlScene.Clear(False)
        assert session.closed

    def test_paths_of_the_scene_are_shown_in_the_panel(self):
        for name, line in {
            "adaptersFolder": self.widget.ui.adaptersPathLineEdit,
            "checkpoint": self.widget.ui.checkpointPathLineEdit,
        }.items():
            setattr(self.widget.parameterNode, name, pathlib.Path("somewhere"))
            assert pathlib.Path(line.currentPath).name == "somewhere"

    def test_a_box_that_is_drawn_is_segmented_with_the_packages_that_are_installed(self):
        if packages.missing():
            self.skipTest("needs the packages that the button installs")
        _, j, i = np.indices((20, 60, 60))
        image = np.where((j - 30) ** 2 + (i - 30) ** 2 < 200, 200, 0).astype(np.int16)
        self.widget.parameterNode.volume = slicer.util.addVolumeFromArray(image)
        self.widget.ui.testButton.click()
        self.wait()
        slicer.util.resetSliceViews()
        self.widget.ui.drawBoxButton.click()
        offset = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode().GetSliceOffset()
        for corner in ((12, 12, offset), (48, 48, offset)):
            self.widget.parameterNode.box.AddControlPointWorld(*corner)
        self.widget.ui.sliceButton.click()
        self.wait()
        (mask,) = self.widget.session.labels().values()
        assert mask.array.sum() > 300

    def test_the_embedded_segment_editor_edits_the_segmentation_that_is_chosen_above(self):
        self.widget.parameterNode.volume = slicer.util.addVolumeFromArray(np.zeros((4, 5, 6), np.int16))
        segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        self.widget.parameterNode.segmentation = segmentation
        editor = self.widget.ui.segmentEditorWidget
        assert editor.segmentationNode() is segmentation
        assert not editor.segmentationNodeSelectorVisible
        assert not editor.sourceVolumeNodeSelectorVisible
        segment = segmentation.GetSegmentation().AddEmptySegment("", "liver")
        editor.setCurrentSegmentID(segment)
        assert self.widget.editorNode.GetSelectedSegmentID() == segment

    def test_an_effect_and_the_placing_of_a_box_end_when_the_module_is_left(self):
        self.widget.parameterNode.volume = slicer.util.addVolumeFromArray(np.zeros((4, 5, 6), np.int16))
        self.widget.parameterNode.segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        self.widget.parameterNode.segmentation.GetSegmentation().AddEmptySegment("", "liver")
        self.widget.ui.segmentEditorWidget.setActiveEffectByName("Paint")
        self.widget.ui.drawBoxButton.click()
        slicer.util.selectModule("Data")
        assert self.widget.ui.segmentEditorWidget.activeEffect() is None
        interaction = slicer.app.applicationLogic().GetInteractionNode()
        assert interaction.GetCurrentInteractionMode() == interaction.ViewTransform

    def test_nothing_is_installed_unless_the_user_agrees(self):
        questions, confirm = [], slicer.util.confirmOkCancelDisplay
        missing, installed = packages.missing, []
        slicer.util.confirmOkCancelDisplay = lambda text, *_, **__: questions.append(text)
        packages.missing, install = (lambda: ["torch"]), packages.install
        packages.install = lambda *of: installed.append(of)
        try:
            self.widget.ui.installButton.click()
        finally:
            slicer.util.confirmOkCancelDisplay = confirm
            packages.missing, packages.install = missing, install
        assert questions == ["Install torch?"]
        assert not installed

    def test_an_adapter_that_is_chosen_is_saved_with_the_scene(self):
        self.widget.ui.adapterComboBox.addItem("one", "one")
        self.widget.ui.adapterComboBox.addItem("two", "two")
        self.widget.ui.adapterComboBox.setCurrentIndex(1)
        self.widget.ui.adapterComboBox.activated(1)
        assert self.widget.parameterNode.adapter == "two"

    def test_keys_reach_the_panel_only_while_the_module_is_shown(self):
        assert self.widget.shortcuts
        slicer.util.selectModule("Data")
        assert not self.widget.shortcuts
