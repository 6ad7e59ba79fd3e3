import numpy as np
import pytest
from COBOTLib import packages
from COBOTLib.drawing import box_in_3d, box_in_view, propagation, window_preset
from COBOTLib.grid import Grid, VoxelBox, VoxelMask
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


def test_points_in_a_view_a_little_oblique_belong_to_the_slice_that_it_shows(volume, add_roi, add_view, points):
    tilted = rotation((1, 0, 0), 1.5)
    view = add_view((20, 20, 5.4), tilted[:, 0], tilted[:, 1])
    on_view = [(np.array([20, 20, 5.4]) + tilted @ [0, height, 0]) for height in (-16, 0, 16)]
    assert [round(point[2]) for point in on_view] == [5, 5, 6]
    other = on_view[2] + (0, 0, 1)  # placed in the view of the next slice
    roi = add_roi((20, 20, 5.4), (30, 34, 4), tilted)
    request = box_in_view(roi, view, volume, points(*on_view, other), points(on_view[2] + (4, 0, 0)))
    assert request.plane is None
    assert request.prompt.index == 5
    assert request.prompt.positive == ((20, 4, 5), (20, 20, 5), (20, 36, 5))
    assert request.prompt.negative == ((24, 36, 5),)
    alone = box_in_view(None, view, volume, points(*on_view, other), points())
    assert alone.prompt == SlicePrompt(2, 5, positive=((20, 4, 5), (20, 20, 5), (20, 36, 5)))


def test_points_alone_are_a_prompt_for_the_slice_or_the_plane_that_the_view_shows(mrml, volume, add_view, points):
    roi = mrml.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "not drawn yet")
    inside = points((18, 19, 12), (18, 19, 30))
    request = box_in_view(roi, add_view((0, 0, 12.2)), volume, inside, points((2, 2, 12)))
    assert request.prompt == SlicePrompt(2, 12, positive=((18, 19, 12),), negative=((2, 2, 12),))
    directions = rotation((1, 0, 0), 30)
    view = add_view((20, 20, 20), directions[:, 0], directions[:, 1])
    far = [np.array([20, 20, 20]) + directions @ [0, height, 0] for height in (0, 10)]
    request = box_in_view(None, view, volume, points(*far), points())
    assert request.plane is not None
    assert len(request.prompt.positive) == 2
    assert request.prompt.box is None


def test_where_nothing_is_drawn_that_is_said_with_what_to_do(volume, add_view, points):
    with pytest.raises(PromptError, match="Nothing is drawn yet"):
        box_in_view(None, add_view((0, 0, 12)), volume, points((18, 19, 30)), points((2, 2, 12)))
    with pytest.raises(PromptError, match="or choose an ROI"):
        box_in_3d(None, add_view((0, 0, 12)), volume)


def test_propagation_starts_from_every_slice_that_was_prompted():
    """From the box that was drawn; where points were placed, from the box of the mask."""
    box, mask = VoxelBox((3, 4, 7), (9, 9, 8)), VoxelMask(VoxelBox((4, 5, 6), (8, 8, 9)), np.ones((3, 3, 4), bool))
    drawn = SlicePrompt(2, 7, box)
    clicked = SlicePrompt(2, 8, positive=((5, 6, 8),))
    corrected = SlicePrompt(2, 6, VoxelBox((0, 0, 6), (9, 9, 7)), negative=((1, 1, 6),))
    nothing_there = SlicePrompt(2, 11, VoxelBox((3, 4, 11), (9, 9, 12)))
    across = SlicePrompt(0, 5, positive=((5, 5, 5),))

    def item(*prompts, **options):
        slices = {(prompt.axis, prompt.index): prompt for prompt in prompts}
        return SegmentedObject(prompts[-1], mask, Edit("a", mask), slices=slices, **options)

    assert propagation(item(drawn), 5).prompt == PropagationPrompt(2, (box,), 5)
    of_masks = [VoxelBox((4, 5, k), (8, 8, k + 1)) for k in (6, 8)]
    everything = item(across, nothing_there, clicked, corrected, drawn)
    assert propagation(everything).prompt == PropagationPrompt(2, (of_masks[0], box, of_masks[1]))
    for useless in (None, item(nothing_there), item(drawn, plane=Grid(np.eye(4), (9, 9, 1)))):
        with pytest.raises(PromptError, match="Draw a box"):
            propagation(useless)


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
    there = {"torch": "2.6.0"}
    monkeypatch.setattr(packages, "_installed", there.get)
    packages.install(None, asked.append)
    assert asked == [[str(repository), "torch==2.6.0"]]
    there.clear()
    with pytest.raises(RuntimeError, match="Extensions Manager"):
        packages.install(None, asked.append)
    with pytest.raises(RuntimeError, match="PyTorch was not installed"):
        packages.install(TorchLogic(None), asked.append)
    assert len(asked) == 1


def test_a_module_outside_a_checkout_installs_the_published_package(tmp_path):
    published = f"monai-cobot=={packages.COBOT_VERSION}"
    assert packages._source(tmp_path) == published
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "another"\n', encoding="utf-8")
    assert packages._source(tmp_path) == published


def test_a_package_of_another_version_is_installed_anew(monkeypatch):
    there = {"torch": "2.6.0", "monai-cobot": packages.COBOT_VERSION}
    monkeypatch.setattr(packages, "_installed", there.get)
    assert packages.missing() == []
    there["monai-cobot"] = "0.0.9"
    assert packages.missing() == [f"monai-cobot {packages.COBOT_VERSION}"]
    asked = []
    packages.install(None, asked.append)
    assert asked[0][1] == "torch==2.6.0"


def test_the_module_asks_for_the_version_of_the_package_beside_it(repository):
    assert f'version = "{packages.COBOT_VERSION}"' in (repository / "pyproject.toml").read_text(encoding="utf-8")
