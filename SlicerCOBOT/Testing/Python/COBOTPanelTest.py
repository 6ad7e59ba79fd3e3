"""What only the application can show: run inside 3D Slicer, by its self-test button or CTest."""

import unittest

import numpy as np
import slicer


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
