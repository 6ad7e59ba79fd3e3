"""Images to segment, wherever they are named, each with its prompts: one call for a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from monai_cobot.data.cases import Case, MaskFile
from monai_cobot.data.prompts import MaskPrompts, PromptSource, WholeSlicePrompts, name_images, read_prompts
from monai_cobot.data.volumes import IMAGE_SUFFIXES, without_ending
from monai_cobot.files import is_hidden, listed_file, read_json
from monai_cobot.transforms.slices import SLICE_AXES

__all__ = ["open_images"]

_DICOM = ".dcm"


def open_images(
    images: str | Path | None = None,
    prompts: str | Path | None = None,
    *,
    axis: str = "axial",
    labels: Mapping[str, int] | None = None,
    min_foreground: int = 1,
    components: bool = False,
) -> list[PromptSource]:
    """Finds images and where their prompts come from. Images are not read yet.

    Args:
        images: a folder, in which and below which all images are taken; one image; or a data list, a JSON file with
            ``["image.nii.gz", {"image": ..., "label": ...}]`` or such lists under ``training``, ``validation`` and
            ``testing``, whose paths are relative to it. None where ``prompts`` names the images.
        prompts: a JSON or CSV file with boxes (`read_prompts`), paths relative to ``images`` where that is a folder;
            or a folder of masks, in which every image finds the mask of its own name, or of its name and ``_mask`` or
            ``_seg``. None for the boxes of the masks that the data list names, and for the whole
            of every slice where it names none.
        axis: "axial", "coronal" or "sagittal".
        labels: name -> value of what is looked for; a single one is the value of what is found in whole slices, which
            is 1 otherwise.
        min_foreground, components: of the boxes of masks, see `MaskPrompts`.

    Raises:
        FileNotFoundError: where there is nothing at a path.
        NotADirectoryError: where ``prompts`` lists boxes and ``images`` is no folder.
        ValueError: where no image is found, a list cannot be understood, a mask is missing for every image, or two
            images would have the same name.
    """
    if axis not in SLICE_AXES:
        raise ValueError(f"unknown slice axis {axis!r}; choose one of {', '.join(SLICE_AXES)}.")
    if prompts is not None and not Path(prompts).is_dir():
        if images is not None and not Path(images).is_dir():
            kind = NotADirectoryError if Path(images).exists() else FileNotFoundError
            raise kind(f"{images}: {prompts} lists its images itself; give the folder that its paths are relative to.")
        return list(read_prompts(prompts, axis, images))
    if images is None:
        raise ValueError(f"{prompts}: masks in a folder belong to images; name their folder too.")
    found = _find(Path(images))
    named = name_images(list(found), Path(images))
    masks = dict(found)
    if prompts is not None:
        masks |= _masks_of(named, Path(images), Path(prompts))
    label = next(iter(labels.values())) if labels and len(labels) == 1 else 1
    sources: list[PromptSource] = []
    for name, image in named.items():
        mask = masks[image]
        if mask is None:
            sources.append(WholeSlicePrompts(name, image, (label,), axis))
        else:
            case = Case(name, image, (MaskFile(mask),), name)
            sources.append(MaskPrompts(case, None, axis, min_foreground, components))
    return sources


def _find(path: Path) -> dict[Path, Path | None]:
    """image -> its mask, where one is named."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder; it should hold or list images.")
    if path.is_dir():
        found: dict[Path, Path | None] = dict.fromkeys(_images_below(path))
    elif path.suffix.lower() == ".json":
        found = _listed(path)
    else:
        found = {path: None}
    if not found:
        raise ValueError(f"{path}: no image is there; {', '.join(IMAGE_SUFFIXES)} and DICOM folders are read.")
    return found


def _images_below(folder: Path) -> list[Path]:
    """The images in a folder and below; the slices of a DICOM series are one, by the folder in which they lie."""
    images: dict[Path, None] = {}
    for path in sorted(folder.rglob("*")):
        if is_hidden(path, folder) or path.name.upper() == "DICOMDIR" or not path.is_file():
            continue
        if _is_dicom(path):
            images[path.parent] = None
        elif path.name.lower().endswith(IMAGE_SUFFIXES):
            images[path] = None
    return list(images)


def _is_dicom(path: Path) -> bool:
    """By its ending or, as scanners often write none, by its content."""
    if path.name.lower().endswith(IMAGE_SUFFIXES):
        return path.name.lower().endswith(_DICOM)
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:  # no right to read it
        return False


def _listed(path: Path) -> dict[Path, Path | None]:
    content = read_json(path)
    parts = ("training", "validation", "testing", "test")
    lists = [content.get(part) or [] for part in parts] if isinstance(content, dict) else [content]
    if not all(isinstance(part, list) for part in lists):
        raise ValueError(f"{path}: a list of images is expected, or lists under {', '.join(parts)}.")
    found: dict[Path, Path | None] = {}
    for entry in (entry for part in lists for entry in part):
        image, mask = (entry.get("image"), entry.get("label")) if isinstance(entry, dict) else (entry, None)
        if not isinstance(image, str) or not isinstance(mask, (str, type(None))):
            raise ValueError(
                f'{path}: an entry must be a path, or "image" and "label" with a path each, not {entry!r}.'
            )
        file = listed_file(path.parent, image)
        if file in found:
            raise ValueError(f"{path}: {image} is listed twice; put its labels into one label map, or into two lists.")
        found[file] = None if mask is None else listed_file(path.parent, mask)
    return found


def _masks_of(named: Mapping[str, Path], images: Path, folder: Path) -> dict[Path, Path]:
    """image -> the mask of its name; an image without one gets the path where it is expected, and is reported."""
    masks: dict[str, Path] = {}
    for path in _images_below(folder):
        masks[without_ending(path.relative_to(folder).as_posix())] = path
    found: dict[Path, Path] = {}
    for name, image in named.items():
        key = Path(name).as_posix()
        keys = [key]
        if images.is_dir():  # where all images lie in one folder below, their names do not say which
            keys.append(without_ending(image.relative_to(images).as_posix()))
        wanted = [one + ending for one in keys for ending in ("", "_mask", "_seg")]
        found[image] = next((masks[one] for one in wanted if one in masks), folder / f"{key}.nii.gz")
    if not any(path.exists() for path in found.values()):
        first = next(iter(named))
        raise ValueError(f"{folder}: none of the images finds its mask here; for {first} it would be {first}.nii.gz.")
    return found
