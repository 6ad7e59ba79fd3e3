import numpy as np
import pytest
from COBOTLib import packages
from COBOTLib.drawing import box_in_3d, box_in_view, propagation, window_preset
from COBOTLib.geometry import GeometryError
from COBOTLib.grid import VoxelBox, VoxelMask
from COBOTLib.prompts import PromptError, PropagationPrompt, RegionPrompt, SlicePrompt
from COBOTLib.segmentation import Edit
from COBOTLib.session import SegmentedObject
from spaces import rotation


@pytest.fixture
def volume(add_volume):
    return add_volume(np.zeros((40, 40, 40), np.int16))


@pytest.fixture
def points(mrml):
    def add(*places):
        node = mrml.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
        for place in places:
            node.AddControlPointWorld(*place)
        return node

    return add


def test_a_box_in_a_parallel_view_is_a_prompt_for_the_slice_with_the_points_on_it(volume, add_roi, add_view, points):
    view, roi = add_view((0, 0, 12.2)), add_roi((20, 20, 30), (10, 10, 10))
    request = box_in_view(roi, view, volume, points((18, 19, 12), (18, 19, 13)), points((22, 22, 12.4)))
    assert request.plane is None
    assert request.prompt == SlicePrompt(
        2, 12, VoxelBox((15, 15, 12), (26, 26, 13)), positive=((18, 19, 12),), negative=((22, 22, 12),)
    )


def test_a_box_in_an_oblique_view_is_a_prompt_for_the_plane_with_the_points_on_it(volume, add_roi, add_view, points):
    directions = rotation((1, 0, 0), 30)
    view = add_view((20, 20, 20), directions[:, 0], directions[:, 1])
    request = box_in_view(
        add_roi((20, 20, 20), (20, 20, 20), directions), view, volume, points((20, 20, 20), (20, 20, 26)), points()
    )
    assert request.prompt.positive == tuple(
        map(tuple, np.floor(request.plane.to_ijk(np.array([[20.0, 20, 20]])) + 0.5).astype(int).tolist())
    )
    assert request.prompt.box.low[2] == 0
    corners = np.array([request.prompt.box.low, request.prompt.box.high], dtype=float) - 0.5
    middle = request.plane.to_ras(corners.mean(0, keepdims=True) * [1, 1, 0])[0]
    np.testing.assert_allclose(middle, (20, 20, 20), atol=1)


def test_a_3d_box_is_segmented_along_the_axis_that_the_view_shows(volume, add_roi, add_view):
    view = add_view((0, 20, 0), (1, 0, 0), (0, 0, 1))
    request = box_in_3d(add_roi((20, 20, 20), (10, 4, 6)), view, volume)
    assert request.prompt == RegionPrompt(1, VoxelBox((15, 18, 17), (26, 23, 24)))


def test_a_box_that_is_not_drawn_yet_is_an_error(mrml, volume, add_view, points):
    roi = mrml.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "Box")
    with pytest.raises(GeometryError, match="not drawn yet"):
        box_in_view(roi, add_view((0, 0, 12)), volume, points(), points())


def test_propagation_starts_from_the_box_or_where_there_is_none_from_the_mask():
    box = VoxelBox((3, 4, 7), (9, 9, 8))
    mask = VoxelMask(VoxelBox((4, 5, 6), (8, 8, 9)), np.ones((3, 3, 4), bool))
    drawn = SegmentedObject(SlicePrompt(2, 7, box), mask, Edit("a", mask))
    assert propagation(drawn, 5).prompt == PropagationPrompt(2, (box,), 5)
    clicked = SegmentedObject(SlicePrompt(2, 7, positive=((5, 6, 7),)), mask, Edit("a", mask))
    assert propagation(clicked).prompt == PropagationPrompt(2, (VoxelBox((4, 5, 7), (8, 8, 8)),))
    for nothing in (None, SegmentedObject(SlicePrompt(2, 7, box), None, Edit("a", None))):
        with pytest.raises(PromptError, match="Draw a box"):
            propagation(nothing)


def test_the_window_of_the_volume_is_a_preset_that_the_network_knows(volume):
    from monai_cobot.transforms import find_preset

    with pytest.raises(PromptError, match="has no window"):
        window_preset(volume)
    volume.CreateDefaultDisplayNodes()
    volume.GetDisplayNode().SetAutoWindowLevel(False)
    volume.GetDisplayNode().SetWindowLevel(400, 40)
    assert find_preset(window_preset(volume)).window == (-160, 240)


class TorchLogic:
    def __init__(self, installs):
        self.installs = installs

    def installTorch(self, askConfirmation):  # noqa: N802, N803 - the PyTorch extension's names
        assert askConfirmation
        return self.installs


def test_only_what_is_missing_is_installed_and_torch_by_its_extension(monkeypatch, repository):
    asked = []
    monkeypatch.setattr(packages, "_is_installed", lambda name: name == "torch")
    packages.install(None, asked.append)
    assert len(asked) == 1
    assert asked[0][0] == str(repository)
    assert asked[0][1].startswith("torch==")
    monkeypatch.setattr(packages, "_is_installed", lambda name: False)
    with pytest.raises(RuntimeError, match="Extensions Manager"):
        packages.install(None, asked.append)
    with pytest.raises(RuntimeError, match="PyTorch was not installed"):
        packages.install(TorchLogic(None), asked.append)
    assert len(asked) == 1


def test_a_module_outside_a_checkout_installs_the_published_package(tmp_path):
    assert packages._source(tmp_path) == "monai-cobot"
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "another"\n', encoding="utf-8")
    assert packages._source(tmp_path) == "monai-cobot"
