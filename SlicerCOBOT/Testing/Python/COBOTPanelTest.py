"""What only the application can show: run inside 3D Slicer, by its self-test button or CTest."""

import pathlib
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

    def wait(self):
        while self.widget.timer.active:
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
            self.widget.boxNode.AddControlPointWorld(*corner)
        self.widget.ui.sliceButton.click()
        self.wait()
        (mask,) = self.widget.session.labels().values()
        assert mask.array.sum() > 300

    def test_keys_reach_the_panel_only_while_the_module_is_shown(self):
        assert self.widget.shortcuts
        slicer.util.selectModule("Data")
        assert not self.widget.shortcuts
