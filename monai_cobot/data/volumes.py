"""Reading images of any orientation into one frame, LPS, and putting masks back onto the grid of the file.

NIfTI is read with nibabel; NRRD, MetaImage and DICOM with SimpleITK, which does it without the large ``itk`` package
that MONAI's ``ITKReader`` needs; PNG and JPEG with Pillow.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from PIL import Image, ImageOps, UnidentifiedImageError

from monai_cobot.files import written_beside

__all__ = [
    "IMAGE_SUFFIXES",
    "PICTURE_SUFFIXES",
    "Volume",
    "labels_in",
    "mask_on_source_grid",
    "read_mask",
    "read_volume",
    "volume_from_array",
    "without_ending",
    "write_label_map",
    "write_mask",
]

_NIFTI = (".nii", ".nii.gz")
_SITK = (".nrrd", ".nhdr", ".mha", ".mhd", ".dcm")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
"""Of pictures, whose spacing is not known."""

IMAGE_SUFFIXES = (*_NIFTI, *_SITK, *PICTURE_SUFFIXES)

_LPS = axcodes2ornt("LPS")
# What the libraries raise on a file that is cut short or is something else.
_DAMAGE = (
    ImageFileError,
    HeaderDataError,
    WrapStructError,
    UnidentifiedImageError,
    Image.DecompressionBombError,
    EOFError,
    OSError,
    zlib.error,
    RuntimeError,
)

# Between the world of DICOM and ITK (left, posterior, superior) and that of NIfTI (right, anterior, superior).
_FLIP_WORLD = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Volume:
    """An image in the LPS frame, with what is needed to put a mask back onto the grid of its file.

    Attributes:
        array: (C, I, J, K), voxel indices growing to the patient's left, posterior and superior; C is 1, or 3 for a
            picture that shows colours. A picture has K = 1, its columns along I and its rows along J. An oblique volume
            is turned to the nearest axes, never resampled. The smallest of uint8, int16, int32 and float32 that holds
            the file's values.
        affine: (4, 4), from voxel indices of ``array`` to millimetres in the RAS+ world of nibabel.
        path: the file, or the folder of a DICOM series.
        source_shape: spatial shape of the grid in the file.
        source_affine: (4, 4), from voxel indices in the file to millimetres, RAS+.
    """

    array: np.ndarray
    affine: np.ndarray
    path: Path
    source_shape: tuple[int, int, int]
    source_affine: np.ndarray

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size along I, J and K in millimetres; 1 for pictures."""
        i, j, k = (float(size) for size in np.linalg.norm(self.affine[:3, :3], axis=0))
        return i, j, k


def read_volume(path: str | Path) -> Volume:
    """Reads an image: NIfTI, NRRD, MetaImage, a folder with one DICOM series, a DICOM file, PNG or JPEG.

    Raises:
        FileNotFoundError: where there is nothing at ``path``.
        ValueError: for a damaged file, an unknown format, more than three axes, several values a voxel, values that
            are not finite, or an image that is the same everywhere. The message names the file and what to do.
    """
    volume = _read(Path(path), is_mask=False)
    if volume.array.min() == volume.array.max():
        raise ValueError(f"{path}: every voxel is {volume.array.flat[0]}; this is an empty image. Export it again.")
    return volume


def volume_from_array(array: np.ndarray, affine: np.ndarray, name: str = "the array") -> Volume:
    """An image that a program holds in memory, in the frame of this module.

    Args:
        array: (I, J, K) numbers, its axes in any order and direction that the affine says.
        affine: (4, 4), from voxel indices of ``array`` to millimetres in the RAS+ world.
        name: what messages call it.

    Raises:
        ValueError: for an array without three axes or with values that are not finite, or an affine that is none.
    """
    if array.ndim != 3 or array.size == 0:
        raise ValueError(f"{name}: one volume with three axes is expected; this one has the shape {array.shape}.")
    affine = np.asarray(affine, dtype=np.float64)
    if affine.shape != (4, 4):
        raise ValueError(f"{name}: an affine has the shape (4, 4); this one has {affine.shape}.")
    return _to_lps(_compact(array[None], Path(name)), affine, Path(name))


def without_ending(name: str) -> str:
    """A name or path without the ending of an image, .nii.gz included; another ending stays."""
    endings = [ending for ending in IMAGE_SUFFIXES if name.lower().endswith(ending)]
    return name[: -len(max(endings, key=len))] if endings else name


def mask_on_source_grid(mask: np.ndarray, like: Volume) -> np.ndarray:
    """A mask (I, J, K) in the frame of ``like.array``, on the grid of the file or array that ``like`` was made from."""
    return apply_orientation(mask, ornt_transform(_LPS, io_orientation(like.source_affine)))


def read_mask(path: str | Path) -> Volume:
    """Reads a mask or label map: whole numbers, 0 for background. A picture that holds only 0 and 255 is read as 0
    and 1, one in colours by the brightest of its channels.

    Raises:
        FileNotFoundError: where there is nothing at ``path``.
        ValueError: as `read_volume`, but a mask may be the same everywhere; also for values that are not whole numbers
            from 0 to 32767, and for JPEG, whose compression alters them.
    """
    path = Path(path)
    if path.name.lower().endswith((".jpg", ".jpeg")):
        raise ValueError(f"{path}: JPEG alters the values of a mask. Save masks as PNG.")
    volume = _read(path, is_mask=True)
    array = volume.array
    if array.shape[0] == 3:
        array = array.max(axis=0, keepdims=True)
    if array.dtype == np.float32 and (array != np.round(array)).any():
        raise ValueError(f"{path}: a mask holds whole numbers, but this file holds others. Is it the image?")
    if array.min() < 0 or array.max() > np.iinfo(np.int16).max:
        raise ValueError(f"{path}: label values run from 0 to 32767, but this file holds {array.min()}..{array.max()}.")
    if path.name.lower().endswith(".png") and np.isin(array, (0, 255)).all():
        array = (array > 0).astype(np.uint8)
    dtype = np.uint8 if array.max() <= 255 else np.int16
    return Volume(array.astype(dtype, copy=False), volume.affine, path, volume.source_shape, volume.source_affine)


def labels_in(mask: np.ndarray) -> list[int]:
    """The labels in a mask (I, J, K) of whole numbers from 0, rising, without the background."""
    length = int(mask.max()) + 1
    # Plane by plane, because bincount copies into int64; np.unique would sort the voxels and take five times as long.
    counts = sum(np.bincount(plane.ravel(), minlength=length) for plane in mask)
    return [label for label in np.flatnonzero(counts).tolist() if label]


def write_mask(mask: np.ndarray, like: Volume, path: str | Path) -> None:
    """Writes a mask on the grid of the file that ``like`` was read from; ``path`` names the format.

    Args:
        mask: (I, J, K) in the frame of ``like.array``, whole numbers from 0 to 32767.
        like: the image that the mask belongs to.
        path: .nii, .nii.gz, .nrrd or .mha for any image; .png for a picture, in which a mask of 0 and 1 is
            written as 0 and 255 so that it can be seen.

    Raises:
        ValueError: for a mask of another shape or with other values, or a format that cannot hold it.
        OSError: where the file cannot be written; what was there before is intact.
    """
    path = Path(path)
    if mask.shape != like.array.shape[1:]:
        raise ValueError(f"{path}: the mask has the shape {mask.shape}, its image {like.array.shape[1:]}.")
    whole = mask.dtype.kind != "f" or (mask == np.round(mask)).all()
    if not whole or mask.min() < 0 or mask.max() > np.iinfo(np.int16).max:
        raise ValueError(f"{path}: a mask holds whole numbers from 0 to 32767, not {mask.min()}..{mask.max()}.")
    mask = mask.astype(np.uint8 if mask.max() <= 255 else np.int16)
    write_label_map(mask_on_source_grid(mask, like), like.source_affine, path)


def write_label_map(grid: np.ndarray, affine: np.ndarray, path: str | Path, compress: bool = True) -> None:
    """Writes a label map on a grid of its own; ``path`` names the format.

    Args:
        grid: (I, J, K) uint8 or int16.
        affine: (4, 4), from voxel indices of ``grid`` to millimetres in the RAS+ world.
        path: as in `write_mask`.
        compress: whether .nrrd and .mha are compressed.

    Raises:
        ValueError: the format cannot hold it.
        OSError: where the file cannot be written; what was there before is intact.
    """
    path = Path(path)
    name = path.name.lower()
    if name.endswith(".png"):
        if grid.shape[2] != 1 or grid.dtype != np.uint8:
            raise ValueError(f"{path}: a PNG holds one slice with labels up to 255. Choose .nii.gz instead.")
        picture = grid[:, :, 0].T  # (I, J) -> rows, columns
        with written_beside(path) as beside:
            Image.fromarray(picture * np.uint8(255) if picture.max() == 1 else picture).save(beside)
    elif name.endswith(_NIFTI):
        nifti = nib.Nifti1Image(np.ascontiguousarray(grid), affine)
        nifti.set_qform(affine, code=1)  # some viewers read only the one, some only the other
        nifti.set_sform(affine, code=1)
        nifti.header.set_xyzt_units("mm")
        with written_beside(path) as beside:
            nib.save(nifti, beside)
    elif name.endswith((".nrrd", ".mha")):
        with written_beside(path) as beside:
            try:
                sitk.WriteImage(_to_sitk(grid, affine), str(beside), useCompression=compress)
            except RuntimeError as error:  # the only one that SimpleITK knows, for a full disk too
                raise OSError(str(error).strip().splitlines()[-1]) from error
    else:
        raise ValueError(f"{path}: masks are written as .nii, .nii.gz, .nrrd, .mha or .png.")


def _read(path: Path, is_mask: bool) -> Volume:
    name = path.name.lower()
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder.")
    if path.is_dir():
        array, affine = _read_dicom(path)
    elif name.endswith(_NIFTI):
        array, affine = _read_nifti(path)
    elif name.endswith(_SITK):
        array, affine = _read_sitk(path)
    elif name.endswith(PICTURE_SUFFIXES):
        array, affine = _read_picture(path, is_mask)
    else:
        raise ValueError(f"{path}: unknown format; {', '.join(IMAGE_SUFFIXES)} and folders of DICOM files are read.")
    return _to_lps(_compact(array, path), affine, path)


def _read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(C, ...) in the file's axes, and the affine."""
    with _damage_explained(path):
        image = cast(nib.Nifti1Image, nib.load(path))
        array = np.asanyarray(image.dataobj)
        affine = image.affine
    if array.dtype.names:
        raise ValueError(f"{path}: this is a colour volume (RGB). Export it with one value a voxel.")
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim > 3:
        raise ValueError(
            f"{path}: the file has the shape {array.shape}, a series of volumes or several channels; one volume with "
            "three axes is expected. Extract the volume to work on and save it as its own file."
        )
    array = array.reshape(array.shape + (1,) * (3 - array.ndim))
    return array[None], affine


def _read_sitk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with _damage_explained(path):
        image = sitk.ReadImage(str(path))
    return _from_sitk(image, path)


def _read_dicom(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if not series:
        raise ValueError(f"{folder}: the folder holds no DICOM image. Name the folder in which the slices lie.")
    if len(series) > 1:
        raise ValueError(
            f"{folder}: the folder holds {len(series)} DICOM series ({', '.join(series)}). "
            "Put each series into its own folder."
        )
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0]))
    reader.MetaDataDictionaryArrayUpdateOn()
    with _damage_explained(folder):
        image = reader.Execute()
    _check_slices_form_a_grid(reader, image, folder)
    return _from_sitk(image, folder)


def _check_slices_form_a_grid(reader: sitk.ImageSeriesReader, image: sitk.Image, folder: Path) -> None:
    position = "0020|0032"
    count = len(reader.GetFileNames())
    if count < 3 or not all(reader.HasMetaDataKey(n, position) for n in range(count)):
        return
    positions = np.array([reader.GetMetaData(n, position).split("\\") for n in range(count)], dtype=float)
    normal = np.array(image.GetDirection()).reshape(3, 3)[:, 2]
    steps = np.diff(positions, axis=0)
    gaps = steps @ normal
    # Of the usual distance: scanners round positions, a slice that is missing doubles a gap.
    tolerance = 0.1 * abs(np.median(gaps))
    if np.abs(gaps - np.median(gaps)).max() > tolerance:
        raise ValueError(
            f"{folder}: the slices are not evenly spaced ({gaps.min():.2f} to {gaps.max():.2f} mm apart), so that "
            "the volume would be distorted. A slice is missing, or the folder mixes two acquisitions."
        )
    shift = np.linalg.norm(steps - gaps[:, None] * normal, axis=1).max()
    if shift > tolerance:
        raise ValueError(
            f"{folder}: each slice is shifted sideways by up to {shift:.2f} mm against the one before, as with a "
            "tilted gantry, so that the volume would be sheared. Convert the series with a program that corrects the "
            "tilt, such as dcm2niix."
        )


def _read_picture(path: Path, is_mask: bool) -> tuple[np.ndarray, np.ndarray]:
    """(1 or 3, I, J, 1): columns along I, to the patient's left, and rows along J, as an axial slice is shown."""
    with _damage_explained(path), Image.open(path) as picture:
        upright = ImageOps.exif_transpose(picture)
        # In a mask with a palette the index is the label; grey values, also those of 16 bits, stay as they are.
        kept = ("1", "L", "I", "I;16", "F", "RGB", *(("P",) if is_mask else ()))
        if upright.mode not in kept:
            upright = upright.convert("L" if upright.mode == "LA" else "RGB")
        pixels = np.asarray(upright)  # (H, W) or (H, W, 3)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    elif (pixels == pixels[:, :, :1]).all():
        pixels = pixels[:, :, :1]  # grey that was saved as colour, as ultrasound often is
    return pixels.transpose(2, 1, 0)[..., None], _FLIP_WORLD


def _from_sitk(image: sitk.Image, path: Path) -> tuple[np.ndarray, np.ndarray]:
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise ValueError(
            f"{path}: the file holds {image.GetNumberOfComponentsPerPixel()} values a voxel (colour or vectors). "
            "Export it with one value a voxel."
        )
    dimension = image.GetDimension()
    if dimension == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]
        dimension = 3
    if dimension not in (2, 3):
        raise ValueError(f"{path}: the file has {dimension} axes; one volume with three axes is expected.")
    array = sitk.GetArrayFromImage(image).T  # (K, J, I) -> (I, J, K)
    linear = np.array(image.GetDirection()).reshape(dimension, dimension) * np.array(image.GetSpacing())
    affine = np.eye(4)
    affine[:dimension, :dimension] = linear
    affine[:dimension, 3] = image.GetOrigin()
    return array.reshape(array.shape + (1,) * (3 - array.ndim))[None], _FLIP_WORLD @ affine


def _to_sitk(grid: np.ndarray, affine: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(grid.T))
    lps = _FLIP_WORLD @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def _compact(array: np.ndarray, path: Path) -> np.ndarray:
    """The same values in the smallest of uint8, int16, int32 and float32 that holds them; a copy only where it must."""
    if array.size == 0:
        raise ValueError(f"{path}: the image has the shape {array.shape[1:]}, so that it holds nothing.")
    if array.dtype.kind == "c":
        raise ValueError(f"{path}: the image holds complex numbers. Export its magnitude.")
    if array.dtype.kind == "f":
        broken = array.size - np.count_nonzero(np.isfinite(array))
        if broken:
            raise ValueError(f"{path}: {broken} of {array.size} voxels are NaN or infinite. Export the image again.")
        return array.astype(np.float32, copy=False)
    low, high = int(array.min()), int(array.max())
    for dtype in (np.uint8, np.int16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return array.astype(dtype, copy=False)
    return array.astype(np.float32)


def _to_lps(array: np.ndarray, affine: np.ndarray, path: Path) -> Volume:
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise ValueError(f"{path}: the affine of the file is not a rotation and a scale; its header is damaged.")
    turn = ornt_transform(io_orientation(affine), _LPS)
    shape = array.shape[1:]
    # A copy, whatever `array` is: a view of a file or of a caller's array, or read-only.
    turned = np.stack([apply_orientation(channel, turn) for channel in array])
    lps_affine = affine @ nib.orientations.inv_ornt_aff(turn, shape)
    return Volume(turned, lps_affine, path, shape, affine)


@contextmanager
def _damage_explained(path: Path) -> Iterator[None]:
    """Turns what the libraries raise on a damaged file into one sentence with the file's name."""
    try:
        yield
    except _DAMAGE as error:
        lines = [
            line.strip() for line in str(error).splitlines() if not line.startswith("Exception thrown in SimpleITK")
        ]
        reason = " ".join(lines).strip() or type(error).__name__
        raise ValueError(
            f"{path}: the file cannot be read; it is damaged or not what its name says ({reason})."
        ) from error
