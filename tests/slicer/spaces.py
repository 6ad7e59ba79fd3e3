"""Volumes as they lie in patients, for tests: matrices (4, 4) from voxel indices to RAS millimetres."""

import numpy as np


def rotation(axis, degrees: float) -> np.ndarray:
    """(3, 3), by Rodrigues' formula."""
    x, y, z = np.array(axis, dtype=float) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def space(directions, spacing, origin) -> np.ndarray:
    """(4, 4) from the axes' directions in columns, the voxel size and the place of voxel (0, 0, 0)."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(directions, dtype=float) * np.array(spacing, dtype=float)
    matrix[:3, 3] = origin
    return matrix


AXIAL = np.diag([-1.0, -1.0, 1.0])
SAGITTAL = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], dtype=float)
CORONAL = np.array([[-1, 0, 0], [0, 0, 1], [0, -1, 0]], dtype=float)
OBLIQUE = rotation((1, 2, 3), 37) @ AXIAL

SPACES = {
    "axial": space(AXIAL, (1, 1, 1), (80, 90, -100)),
    "sagittal": space(SAGITTAL, (0.9, 0.9, 3), (10, 20, 30)),
    "coronal": space(CORONAL, (0.7, 0.8, 5), (-10, 0, 7)),
    "oblique": space(OBLIQUE, (1.5, 1.5, 1.5), (3, -4, 5)),
    "oblique anisotropic": space(OBLIQUE, (0.5, 0.8, 4), (100, -40, 15)),
    "left-handed": space(np.diag([1.0, -1.0, 1.0]), (0.6, 1.1, 2.3), (0, 0, 0)),
    "left-handed oblique": space(OBLIQUE @ np.diag([1.0, 1.0, -1.0]), (1, 2, 3), (9, 9, 9)),
}
