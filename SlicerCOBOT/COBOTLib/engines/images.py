"""Scans and masks as files, for what is not in this process."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ..grid import Grid, VoxelMask, resampled

# Between the world of Slicer and NIfTI (right, anterior, superior) and that of ITK (left, posterior, superior).
_FLIP_WORLD = np.diag([-1.0, -1.0, 1.0, 1.0])


def to_file(array: np.ndarray, grid: Grid, suffix: str = ".nii.gz") -> bytes:
    """An image (K, J, I) as the bytes of a file, quickly compressed.

    Raises:
        ValueError: the format cannot hold it, such as an image whose axes are not perpendicular.
    """
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(array)
    lps = _FLIP_WORLD @ grid.ijk_to_ras
    image.SetSpacing(grid.spacing.tolist())
    try:
        image.SetDirection((lps[:3, :3] / grid.spacing).ravel().tolist())
        image.SetOrigin(lps[:3, 3].tolist())
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"image{suffix}"
            sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=1)
            return path.read_bytes()
    except RuntimeError as error:
        raise ValueError(f"the image cannot be written as {suffix}: {_last_line(error)}") from error


def mask_from_file(content: bytes, suffix: str, grid: Grid) -> VoxelMask | None:
    """The foreground of a label map, in a grid.

    Args:
        content: of the file; it may hold a part of the grid only, or be on another grid.
        suffix: of the file's name, such as ``.nii.gz`` or ``.nrrd``.
        grid: where the mask is wanted.

    Returns:
        the mask, cropped; None for an empty one.

    Raises:
        ValueError: the file holds no label map in three dimensions.
    """
    import SimpleITK as sitk

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"mask{suffix}"
        path.write_bytes(content)
        try:
            image: Any = sitk.ReadImage(str(path))
        except RuntimeError as error:
            raise ValueError(f"the file cannot be read: {_last_line(error)}") from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise ValueError(f"a label map in three dimensions was expected, the file has {image.GetDimension()}")
    lps = np.eye(4)
    lps[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    lps[:3, 3] = image.GetOrigin()
    own = Grid(_FLIP_WORLD @ lps, image.GetSize())
    return resampled(VoxelMask(own.box, sitk.GetArrayViewFromImage(image) != 0), own, grid)


def _last_line(error: Exception) -> str:
    """ITK's errors are long; their last line says what it is."""
    return str(error).strip().splitlines()[-1]
