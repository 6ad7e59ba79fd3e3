"""Slicer's MRML core, with as much around it as ``slicer.util`` asks for.

The wheel ``slicer-core`` has node classes, module logics and ``slicer.util``; the application, which holds the scene
and the modules, is not in it. ``mrml`` stands in for that, with Slicer's own objects.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "SlicerCOBOT"), str(HERE)]  # as Slicer does for its modules; and for ours here


@pytest.fixture(scope="session")
def slicer():
    """The module ``slicer`` of the wheel."""
    return pytest.importorskip(
        "slicer", reason="needs the wheel slicer-core, which exists for Linux and Windows (x86-64) and macOS (arm64)"
    )


@pytest.fixture
def mrml(slicer, monkeypatch):
    """``slicer`` with an empty scene, the logics of the modules used here, and files in and out."""
    scene = slicer.vtkMRMLScene()
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    modules = SimpleNamespace()
    logics = []
    for name, kind in {
        "colors": slicer.vtkSlicerColorLogic,
        "volumes": slicer.vtkSlicerVolumesLogic,
        "segmentations": slicer.vtkSlicerSegmentationsModuleLogic,
        "markups": slicer.vtkSlicerMarkupsLogic,
    }.items():
        logic = kind()
        logic.SetMRMLApplicationLogic(application)
        logic.SetMRMLScene(scene)
        application.SetModuleLogic(name.capitalize(), logic)
        logics.append(logic)
        setattr(modules, name, SimpleNamespace(logic=lambda logic=logic: logic))
    monkeypatch.setattr(slicer, "mrmlScene", scene, raising=False)
    monkeypatch.setattr(slicer, "modules", modules, raising=False)
    yield slicer
    scene.Clear(True)
    for logic in logics:
        logic.SetMRMLScene(None)
    application.SetMRMLScene(None)


@pytest.fixture
def add_volume(mrml):
    """Adds a volume to the scene: array (K, J, I) and ijk_to_ras (4, 4) -> ``vtkMRMLScalarVolumeNode``."""

    def add(array: np.ndarray, ijk_to_ras: np.ndarray | None = None, name: str = "CT"):
        from COBOTLib.geometry import matrix_from_array

        node = mrml.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        mrml.util.updateVolumeFromArray(node, array)
        node.SetIJKToRASMatrix(matrix_from_array(np.eye(4) if ijk_to_ras is None else ijk_to_ras))
        return node

    return add


@pytest.fixture
def add_roi(mrml):
    """Adds a box: centre and size in millimetres, axes (3, 3) in columns -> ``vtkMRMLMarkupsROINode``."""

    def add(center, size, axes=None, name: str = "Box"):
        node = mrml.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", name)
        node.SetCenter(*center)
        node.SetSize(*size)
        if axes is not None:
            from COBOTLib.geometry import matrix_from_array

            object_to_node = np.eye(4)
            object_to_node[:3, :3] = axes
            object_to_node[:3, 3] = center
            node.SetAndObserveObjectToNodeMatrix(matrix_from_array(object_to_node))
        return node

    return add


@pytest.fixture
def add_view(mrml):
    """Adds a slice view: a point on its plane, its right and up directions -> ``vtkMRMLSliceNode``."""

    def add(point, right=(-1, 0, 0), up=(0, 1, 0)):
        node = mrml.mrmlScene.AddNode(mrml.vtkMRMLSliceNode())
        right, up = np.array(right, dtype=float), np.array(up, dtype=float)
        matrix = node.GetSliceToRAS()
        for row in range(3):
            for column, direction in enumerate((right, up, np.cross(right, up))):
                matrix.SetElement(row, column, direction[row])
            matrix.SetElement(row, 3, point[row])
        node.UpdateMatrices()
        return node

    return add


@pytest.fixture
def add_transform(mrml):
    """Puts a node under a linear transform (4, 4)."""

    def add(node, matrix: np.ndarray):
        from COBOTLib.geometry import matrix_from_array

        transform = mrml.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        transform.SetMatrixTransformToParent(matrix_from_array(matrix))
        node.SetAndObserveTransformNodeID(transform.GetID())
        return transform

    return add
