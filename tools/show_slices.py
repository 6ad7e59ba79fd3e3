"""Draw how an organ is segmented in 3D Slicer's slice views: ``python tools/show_slices.py``.

What a user would draw is put into a scene of Slicer's own core (wheel ``slicer-core``), SlicerCOBOT's session segments,
and Slicer's own displayable managers render volume, box, points and segment off screen. It writes ``slicer_steps.png``
and, for the README, the steps within a slice as ``slicer_slice.png``.
"""

import argparse
import sys
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import vtk
from matplotlib.figure import Figure
from slicer_scene import opened
from vtkmodules.util.numpy_support import vtk_to_numpy

from monai_cobot.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "SlicerCOBOT"))  # as Slicer does for its modules

from COBOTLib import drawing  # noqa: E402
from COBOTLib.engines.in_process import InProcessEngine  # noqa: E402
from COBOTLib.geometry import grid_of  # noqa: E402
from COBOTLib.jobs import Background, State  # noqa: E402
from COBOTLib.session import Session  # noqa: E402

PIXELS = 480
BOX, INSIDE, OUTSIDE = (1.0, 0.8, 0.0), (0.1, 0.8, 0.2), (0.9, 0.1, 0.1)  # as the panel has them
SEGMENT = (0.2, 0.6, 1.0)
MILLIMETRES = 180.0
# voxels (i, j, k) of the CT, as a user would click them
CENTER = (79.0, 40.0, 93.0)
CORNERS = ((69.0, 28.0, 93.0), (89.0, 46.0, 93.0))
OBLIQUE_DEGREES, OBLIQUE_SIZE = 35.0, (62.0, 62.0, 10.0)  # millimetres
POINTS_INSIDE = ((77.0, 37.0, 93.0),)
POINTS_OUTSIDE = ((88.0, 45.0, 93.0),)
MANAGERS = ("vtkMRMLMarkupsDisplayableManager", "vtkMRMLSegmentationsDisplayableManager2D")


class View:
    """A slice view of the application, rendered off screen.

    Args:
        slicer: from ``slicer_scene.opened``.
        volume_node: what it shows.
        name: of the view.
        orientation: ``"Axial"``, ``"Coronal"`` or ``"Sagittal"``.
    """

    def __init__(self, slicer: Any, volume_node: Any, name: str, orientation: str) -> None:
        application = slicer.app.applicationLogic()
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(application)
        self.logic.SetMRMLScene(slicer.mrmlScene)
        self.node = self.logic.AddSliceNode(name)
        self.node.SetOrientation(orientation)
        self.node.SetDimensions(PIXELS, PIXELS, 1)
        self.logic.GetSliceCompositeNode().SetBackgroundVolumeID(volume_node.GetID())
        self.logic.FitSliceToAll()

        self.window = vtk.vtkRenderWindow()
        self.window.SetOffScreenRendering(True)
        self.window.SetSize(PIXELS, PIXELS)
        self.renderer = vtk.vtkRenderer()
        self.window.AddRenderer(self.renderer)
        self.interactor = vtk.vtkRenderWindowInteractor()
        self.window.SetInteractor(self.interactor)
        # the application's view widget does this with a class of Qt's side
        mapper = vtk.vtkImageMapper()
        mapper.SetInputConnection(self.logic.GetImageDataConnection())
        mapper.SetColorWindow(255)
        mapper.SetColorLevel(127.5)
        image = vtk.vtkActor2D()
        image.SetMapper(mapper)
        image.GetProperty().SetDisplayLocationToBackground()
        self.renderer.AddViewProp(image)

        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        factory.SetMRMLApplicationLogic(application)
        for manager in MANAGERS:
            if not factory.IsDisplayableManagerRegistered(manager):
                factory.RegisterDisplayableManager(manager)
        self.managers = factory.InstantiateDisplayableManagers(self.renderer)
        self.managers.SetMRMLDisplayableNode(self.node)

    def look_at(self, point: Any, millimetres: float) -> None:
        """Show the slice through a point, so many millimetres wide, the point in the middle."""
        self.node.JumpSliceByCentering(*point)
        self.node.SetFieldOfView(millimetres, millimetres, 1)

    def turn(self, degrees: float) -> None:
        """Tilt the plane about the view's horizontal axis."""
        turned = vtk.vtkTransform()
        turned.SetMatrix(self.node.GetSliceToRAS())
        turned.RotateX(degrees)
        self.node.GetSliceToRAS().DeepCopy(turned.GetMatrix())
        self.node.UpdateMatrices()

    def picture(self) -> np.ndarray:
        """(H, W, 3) uint8."""
        self.logic.UpdatePipeline()
        self.window.Render()
        self.window.Render()  # some managers put their actors in place while the first one runs
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self.window)
        grab.ReadFrontBufferOff()
        grab.Update()
        image = grab.GetOutput()
        width, height, _ = image.GetDimensions()
        return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, -1)[::-1, :, :3].copy()


def load_ct(slicer: Any, folder: Path) -> Any:
    """The CT with its window set to soft tissue."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(folder / "example_ct.nii.gz"))
    if not storage.ReadData(node):
        raise SystemExit(f"{folder} holds no example_ct.nii.gz.")
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevel(400, 40)
    return node


def draw(slicer: Any, kind: str, color: tuple[float, float, float]) -> Any:
    """A markups node without points, as the panel makes it."""
    node = slicer.mrmlScene.AddNewNodeByClass(kind)
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetSelectedColor(color)
    display = node.GetDisplayNode()
    display.SetPointLabelsVisibility(False)
    display.SetFillVisibility(False)
    if kind == "vtkMRMLMarkupsROINode":
        display.SetPropertiesLabelVisibility(False)
        display.SetHandlesInteractive(False)
        display.SetGlyphScale(0.01)
    return node


def draw_in(view: View, box: Any, center: np.ndarray) -> None:
    """A box as clicks in an oblique view make it: parallel to the view."""
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy(view.node.GetSliceToRAS())
    for row in range(3):
        matrix.SetElement(row, 3, center[row])
    box.SetAndObserveObjectToNodeMatrix(matrix)
    box.SetSize(*OBLIQUE_SIZE)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "Torso_CT_MR")
    parser.add_argument("--adapter", type=Path, help="adapter folder; without, vit_mini as it is")
    parser.add_argument("--to", type=Path, default=Path("docs/pictures"), help="folder of the picture")
    options = parser.parse_args()
    with opened() as slicer:
        pictures = steps(slicer, options.data, options.adapter)
    save(pictures, options.to / "slicer_steps.png")
    save(dict(list(pictures.items())[:3]), options.to / "slicer_slice.png")


def steps(slicer: Any, data: Path, adapter: Path | None) -> dict[str, np.ndarray]:
    """Title -> picture of each step, for a kidney in the torso CT."""
    ct = load_ct(slicer, data)
    grid = grid_of(ct)
    axial, coronal = (View(slicer, ct, orientation, orientation) for orientation in ("Axial", "Coronal"))
    oblique = View(slicer, ct, "Oblique", "Axial")
    oblique.turn(OBLIQUE_DEGREES)
    for view in (axial, coronal, oblique):
        view.look_at(grid.to_ras(np.array([CENTER]))[0], MILLIMETRES)
    box = draw(slicer, "vtkMRMLMarkupsROINode", BOX)
    positive, negative = (draw(slicer, "vtkMRMLMarkupsFiducialNode", color) for color in (INSIDE, OUTSIDE))
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Organs")
    background, engine = Background(), InProcessEngine(adapters_folder=adapter, device="cpu")
    session = Session(ct, segmentation, engine, background)
    segment = session.writer.add_segment("kidney")
    segmentation.GetSegmentation().GetSegment(segment).SetColor(SEGMENT)

    def run(request: drawing.Request) -> None:
        chosen = "bare vit_mini" if adapter is None else str(adapter)
        session.segment(request.prompt, segment, chosen, plane=request.plane)
        while background.state != State.IDLE:  # the panel's timer does this
            background.update()
            time.sleep(0.01)

    pictures = {}
    for corner in CORNERS:
        box.AddControlPointWorld(*grid.to_ras(np.array([corner]))[0])
    pictures["1. Draw a box"] = axial.picture()
    run(drawing.box_in_view(box, axial.node, ct, positive, negative))
    pictures["2. Segment slice"] = axial.picture()
    for node, points in ((positive, POINTS_INSIDE), (negative, POINTS_OUTSIDE)):
        for point in points:
            node.AddControlPointWorld(*grid.to_ras(np.array([point]))[0])
    run(drawing.box_in_view(box, axial.node, ct, positive, negative))
    pictures["3. Correct with points"] = axial.picture()
    run(drawing.propagation(session.object))
    pictures["4. Propagate (coronal view)"] = coronal.picture()
    while session.undo():
        pass
    for node in (positive, negative):
        node.RemoveAllControlPoints()
    draw_in(oblique, box, grid.to_ras(np.array([CENTER]))[0])
    run(drawing.box_in_view(box, oblique.node, ct, positive, negative))
    pictures["Or in an oblique view"] = oblique.picture()
    session.close()
    background.close()
    engine.close()
    return pictures


def save(pictures: dict[str, np.ndarray], path: Path) -> None:
    """The pictures in a row, each under its title."""
    figure = Figure(figsize=(4 * len(pictures), 4.3), dpi=120, layout="constrained")
    for panel, (title, picture) in zip(figure.subplots(1, len(pictures)), pictures.items(), strict=True):
        panel.imshow(picture)
        panel.set_title(title)
        panel.axis("off")
    content = BytesIO()
    figure.savefig(content, format="png")
    write_atomically(path, content.getvalue())


if __name__ == "__main__":
    main()
