"""What the tests of SlicerCOBOT share: a scene of Slicer's core, and nodes in it."""

import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
# as Slicer does for its modules; and for what is shared here
sys.path[:0] = [str(HERE.parents[1] / "SlicerCOBOT"), str(HERE), str(HERE.parents[1] / "tools")]


@pytest.fixture(scope="session")
def slicer():
    """The module ``slicer`` of the wheel."""
    return pytest.importorskip(
        "slicer", reason="needs the wheel slicer-core, which exists for Linux and Windows (x86-64) and macOS (arm64)"
    )


@pytest.fixture
def mrml(slicer):
    """``slicer`` with an empty scene, the logics of the modules used here, and files in and out."""
    from slicer_scene import opened

    with opened():
        yield slicer


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
