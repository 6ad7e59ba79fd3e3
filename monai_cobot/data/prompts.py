"""Box prompts of whole images: listed in a file, taken from masks, or the whole of every slice."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from monai_cobot.data.cases import Case, CaseError, load_case
from monai_cobot.data.components import large_components
from monai_cobot.data.opening import CaseSplit
from monai_cobot.data.parts import cases_of
from monai_cobot.data.volumes import Volume, read_volume, without_ending
from monai_cobot.files import listed_file, read_json
from monai_cobot.transforms.boxes import box_from_mask, check_box
from monai_cobot.transforms.slices import SLICE_AXES, slices_of

__all__ = [
    "ListedPrompts",
    "MaskPrompts",
    "Prompt",
    "PromptSource",
    "WholeSlicePrompts",
    "name_images",
    "prompts_from_masks",
    "read_prompts",
    "whole_slices",
]

Box = tuple[float, float, float, float]

_MOST_LABELS = 32767
_CORNERS = ("x0", "y0", "x1", "y1")
_KEYS = ("image", "slice", "box", "label", "axis")


@dataclass(frozen=True)
class Prompt:
    """A box on a slice of an image, and the label that what it holds gets.

    Attributes:
        slice: voxel index along the axis, 0 at the patient's right, anterior or inferior end; 0 for a picture.
        box: x0, y0, x1, y1, half-open, in pixels of the slice as `monai_cobot.transforms.take_slice` shows it; None for
            the whole slice.
        label: its value in the label map, 1 to 32767.
        axis: "axial", "coronal" or "sagittal".
        origin: where the prompt comes from, for messages.
    """

    slice: int
    box: Box | None
    label: int
    axis: str = "axial"
    origin: str = "a prompt"


class PromptSource(Protocol):
    """An image and where its prompts come from; nothing is read before `load`."""

    @property
    def name(self) -> str:
        """Unique among the images that are worked on together; may hold folders."""

    @property
    def image(self) -> Path:
        """The file, or the folder of a DICOM series."""

    @property
    def files(self) -> tuple[Path, ...]:
        """All that is read: the image and whatever the prompts are made of."""

    def load(self) -> tuple[Volume, tuple[Prompt, ...]]:
        """The image and its prompts, in the order in which they take effect.

        Raises:
            OSError, ValueError: where the image cannot be used.
        """


@dataclass(frozen=True)
class ListedPrompts:
    """An image with prompts that a file lists."""

    name: str
    image: Path
    prompts: tuple[Prompt, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """The image."""
        return (self.image,)

    def load(self) -> tuple[Volume, tuple[Prompt, ...]]:
        """The image and its prompts, checked against it.

        Raises:
            OSError, ValueError: where the image cannot be read, or a slice or a box is outside; names the entry.
        """
        volume = read_volume(self.image)
        for prompt in self.prompts:
            _check_inside(prompt, volume)
        return volume, self.prompts


@dataclass(frozen=True)
class MaskPrompts:
    """An image with the boxes around what its masks show.

    Attributes:
        case: the image and its masks.
        labels: name -> value of the labels to use; None for all that the masks hold.
        axis: slice axis.
        min_foreground: slices with fewer pixels of a label have no box for it.
        components: a box around each connected component of a label in a slice (8 neighbours) instead of one around
            the label as a whole; ``min_foreground`` then counts the component.
    """

    case: Case
    labels: Mapping[str, int] | None
    axis: str = "axial"
    min_foreground: int = 1
    components: bool = False

    @property
    def name(self) -> str:
        """Name of the case."""
        return self.case.name

    @property
    def image(self) -> Path:
        """The case's image."""
        return self.case.image

    @property
    def files(self) -> tuple[Path, ...]:
        """The image and its masks."""
        return (self.image, *(mask.path for mask in self.case.masks))

    def load(self) -> tuple[Volume, tuple[Prompt, ...]]:
        """The image and the boxes of its masks.

        Raises:
            CaseError: where the case cannot be used, or no slice shows enough of any label.
        """
        loaded = load_case(self.case, None if self.labels is None else self.labels.values())
        areas = loaded.areas(self.axis)
        labels = self.labels or {f"label {value}": value for value in areas}
        label_maps = slices_of(loaded.label_maps, self.axis)  # (slices, N, H, W)
        prompts = []
        for name, value in labels.items():
            if value not in areas:
                continue
            prompts += [
                Prompt(index, box, value, self.axis, f"{name} in {self.axis} slice {index}")
                for index in np.flatnonzero(areas[value] >= max(1, self.min_foreground)).tolist()
                for box in self._boxes((label_maps[index] == value).any(axis=0))
            ]
        if not prompts:
            raise CaseError(
                f"case {self.name}: no {self.axis} slice shows {self.min_foreground} pixels or more of "
                f"{', '.join(labels) or 'any label'}; its masks hold the labels {list(areas)}."
            )
        return loaded.image, tuple(prompts)

    def _boxes(self, mask: np.ndarray) -> list[Box]:
        """The boxes in a mask (H, W) of at least ``min_foreground`` pixels."""
        parts = [mask]
        if self.components:
            numbers, large = large_components(mask, self.min_foreground)
            parts = [numbers == number for number in large]
        boxes = [box_from_mask(part).tolist() for part in parts]
        return [(x0, y0, x1, y1) for x0, y0, x1, y1 in boxes]


@dataclass(frozen=True)
class WholeSlicePrompts:
    """An image, every slice of which is one prompt a label.

    Attributes:
        labels: the values of what is found, in the order in which the network gives their masks.
        axis: slice axis.
    """

    name: str
    image: Path
    labels: tuple[int, ...] = (1,)
    axis: str = "axial"

    @property
    def files(self) -> tuple[Path, ...]:
        """The image."""
        return (self.image,)

    def load(self) -> tuple[Volume, tuple[Prompt, ...]]:
        """The image and one prompt a slice and label.

        Raises:
            OSError, ValueError: where the image cannot be read.
        """
        volume = read_volume(self.image)
        count = len(slices_of(volume.array, self.axis))
        return volume, tuple(
            Prompt(n, None, label, self.axis, f"{self.axis} slice {n}") for n in range(count) for label in self.labels
        )


def prompts_from_masks(
    split: CaseSplit, part: str, axis: str = "axial", min_foreground: int = 1, components: bool = False
) -> list[MaskPrompts]:
    """The cases of one part of a data set, or of all of it, with the boxes around what their masks show.

    Args:
        split: the data set.
        part: "training", "validation" or "all".
        axis, min_foreground, components: see `MaskPrompts`.

    Raises:
        ValueError: for an unknown part or axis.
    """
    _check_axis(axis, "axis")
    return [MaskPrompts(case, split.labels, axis, min_foreground, components) for case in cases_of(split, part)]


def whole_slices(images: Sequence[PromptSource], labels: Mapping[str, int], axis: str = "axial") -> list[PromptSource]:
    """Images with one prompt a slice and label, in place of the prompts that they have: for a network with classes.

    Args:
        images: whose names and files are taken.
        labels: name -> value, in the order of the classes.
        axis: slice axis.
    """
    return [WholeSlicePrompts(image.name, image.image, tuple(labels.values()), axis) for image in images]


def read_prompts(path: str | Path, axis: str = "axial", folder: str | Path | None = None) -> list[ListedPrompts]:
    """Reads a list of prompts, as JSON or CSV.

    JSON: ``[{"image": path, "slice": 3, "box": [x0, y0, x1, y1], "label": 1, "axis": name}]``. CSV: columns ``image,
    slice, x0, y0, x1, y1, label`` and, where wanted, ``axis``, divided by commas, semicolons or tabs. A box of null,
    or four empty cells, is the whole slice; the slice of a picture is 0. See `Prompt` for the frame of slices and
    boxes. An image's entries may stand anywhere; they take effect in their order.

    Args:
        path: the file, which ends in .json or .csv.
        axis: of entries that name none.
        folder: what the paths of images are relative to; None for the file's folder.

    Returns:
        The images in the order of their first entries. They are named by their paths below the folder that they have in
        common, without their endings.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: for a file that cannot be understood, or two images that would have the same name; names the entry.
    """
    path = Path(path)
    _check_axis(axis, "axis")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; it should list images with their boxes.")
    entries = _read_csv(path) if path.suffix.lower() == ".csv" else _read_entries(path)
    by_image: dict[Path, list[Prompt]] = {}
    for origin, entry in entries:
        image, prompt = _parse(entry, axis, origin, path.parent if folder is None else Path(folder))
        by_image.setdefault(image, []).append(prompt)
    named = name_images(list(by_image), path)
    return [ListedPrompts(name, image, tuple(by_image[image])) for name, image in named.items()]


def _read_entries(path: Path) -> list[tuple[str, Any]]:
    """The entries, each with where it stands."""
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        raise ValueError(f'{path}: a list of entries such as {{"image": ..., "slice": 0, "box": ...}} is expected.')
    return [(f"{path}: entry {number}", entry) for number, entry in enumerate(entries)]


def _read_csv(path: Path) -> list[tuple[str, Any]]:
    """As `_read_entries`; cells become numbers where they can, and what cannot is left for the check of the entry."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: this is not text in UTF-8 ({error}). Save it as CSV UTF-8.") from error
    header = text.partition("\n")[0]
    reader = csv.DictReader(text.splitlines(), delimiter=max(",;\t", key=header.count), restkey="further columns")
    columns = {"image", "slice", *_CORNERS, "label"}
    names = {name.strip() for name in reader.fieldnames or ()}
    if not columns <= names <= columns | {"axis"}:
        raise ValueError(
            f"{path}: the first line must name the columns image, slice, x0, y0, x1, y1, label and, where wanted, "
            f"axis; it is {header.strip()!r}."
        )
    entries = []
    for row in reader:
        cells = {name.strip(): (value or "").strip() for name, value in row.items() if name != "further columns"}
        corners = [cells.pop(name) for name in _CORNERS]
        entry: dict[str, Any] = {**cells, **{key: _number(cells[key]) for key in ("slice", "label")}}
        entry["box"] = [_number(corner) for corner in corners] if any(corners) else None
        entries.append((f"{path}: line {reader.line_num}", entry))
    if not entries:
        raise ValueError(f"{path}: the file lists no box.")
    return entries


def _number(cell: str) -> int | float | str:
    try:
        number = float(cell)
    except ValueError:
        return cell
    return int(number) if number.is_integer() else number


def _parse(entry: Any, axis: str, origin: str, folder: Path) -> tuple[Path, Prompt]:
    if not isinstance(entry, dict):
        raise ValueError(f"{origin}: an object with the keys {', '.join(_KEYS)} is expected, not {entry!r}.")
    missing = [key for key in ("image", "slice", "box", "label") if key not in entry]
    unknown = [key for key in entry if key not in _KEYS]
    if missing or unknown:
        raise ValueError(f"{origin}: missing keys {missing}, unknown keys {unknown}; there are {', '.join(_KEYS)}.")
    if not isinstance(entry["image"], str):
        raise ValueError(f'{origin}: "image" must be the path of a file, not {entry["image"]!r}.')
    for key, least in (("slice", 0), ("label", 1)):
        value = entry[key]
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _MOST_LABELS:
            raise ValueError(f'{origin}: "{key}" must be a whole number from {least} to {_MOST_LABELS}, not {value!r}.')
    axis = entry.get("axis") or axis
    _check_axis(axis, origin)
    prompt = Prompt(entry["slice"], _parse_box(entry["box"], origin), entry["label"], axis, origin)
    return Path(os.path.normpath(listed_file(folder, entry["image"]))), prompt


def _parse_box(box: Any, origin: str) -> Box | None:
    if box is None:
        return None
    if not isinstance(box, list) or any(isinstance(x, bool) or not isinstance(x, (int, float)) for x in box):
        raise ValueError(f'{origin}: "box" must be [x0, y0, x1, y1] or null, not {box!r}.')
    try:
        check_box(np.array(box), (_MOST_LABELS, _MOST_LABELS))  # the image's own size is checked once it is read
    except ValueError as error:
        raise ValueError(f"{origin}: {error}") from error
    x0, y0, x1, y1 = (float(x) for x in box)
    return x0, y0, x1, y1


def _check_axis(axis: str, origin: str) -> None:
    if axis not in SLICE_AXES:
        raise ValueError(f"{origin}: unknown slice axis {axis!r}; choose one of {', '.join(SLICE_AXES)}.")


def _check_inside(prompt: Prompt, volume: Volume) -> None:
    count, _, height, width = slices_of(volume.array, prompt.axis).shape
    if not prompt.slice < count:
        raise ValueError(
            f"{prompt.origin}: {prompt.axis} slice {prompt.slice} is outside {volume.path}, which has slices 0 to "
            f"{count - 1}."
        )
    if prompt.box is not None:
        try:
            check_box(np.array(prompt.box), (height, width))
        except ValueError as error:
            raise ValueError(f"{prompt.origin}: {volume.path}: {error}") from error


def name_images(images: Sequence[Path], path: Path) -> dict[str, Path]:
    """name -> image; in folders below the one that all have in common, so that equal names in two folders stay two.

    Args:
        images: the files, or folders of DICOM series.
        path: where they are listed, for messages.

    Raises:
        ValueError: for two images that would have the same name.
    """
    common = os.path.commonpath([os.path.abspath(image.parent) for image in images])
    named: dict[str, Path] = {}
    for image in images:
        relative = os.path.relpath(os.path.abspath(image), common)
        name = without_ending(relative)
        if name in named:
            raise ValueError(
                f"{path}: the masks of {named[name]} and {image} would have the same name; list them in two files."
            )
        named[name] = image
    return named
