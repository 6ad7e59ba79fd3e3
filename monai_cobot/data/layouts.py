"""The ways in which data sets lie on disk, each turned into cases.

A layout is a function from a folder to a `CaseFolder`, or to None where the folder is laid out in another way.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_cobot.data.cases import Case, MaskFile
from monai_cobot.data.volumes import IMAGE_SUFFIXES, labels_in, read_mask, without_ending
from monai_cobot.files import listed_file, read_json

__all__ = [
    "LAYOUTS",
    "CaseFolder",
    "discover_labels",
    "read_abdomen_ct_1k",
    "read_busi",
    "read_case_folders",
    "read_data_list",
    "read_layout",
    "read_msd",
]


@dataclass(frozen=True)
class CaseFolder:
    """What a folder holds.

    Attributes:
        cases: its cases, by name.
        labels: name -> value as the folder itself says; empty where it does not.
        modality: as the folder itself says, such as "CT" or "MRI"; empty where it does not.
    """

    cases: tuple[Case, ...]
    labels: Mapping[str, int]
    modality: str = ""


def read_msd(root: Path) -> CaseFolder | None:
    """The Medical Segmentation Decathlon's and nnU-Net's: ``dataset.json``, or folders ``imagesTr`` and ``labelsTr``.

    ``dataset.json`` lists the cases and, optionally, cases for validation; without a list, or without the file, each
    file in ``imagesTr`` belongs to the one of the same name in ``labelsTr`` (nnU-Net's channel ending ``_0000`` is
    left out of the name; other channels are not read), and ``imagesVal`` / ``labelsVal`` likewise.

    Raises:
        ValueError: for a ``dataset.json`` that cannot be understood.
    """
    description = root / "dataset.json"
    if not description.exists() and not ((root / "imagesTr").is_dir() and (root / "labelsTr").is_dir()):
        return None
    content = _read_object(description) if description.exists() else {}
    if any(content.get(part) for part in ("training", "validation")):
        cases = _listed_cases(content, description)
    else:
        validation = _paired_cases(root / "imagesVal", root / "labelsVal", "validation")
        training = _paired_cases(root / "imagesTr", root / "labelsTr", "training" if validation else None)
        cases = [*training, *validation]
    return CaseFolder(tuple(cases), _named_labels(content.get("labels", {}), description), _modality(content))


def read_data_list(path: Path) -> CaseFolder | None:
    """A MONAI data list: ``{"training": [{"image": ..., "label": ...}], "validation": [...], "labels": {...}}``.

    Paths are relative to the file. An entry may also say "patient" and "name"; "label" may be a list of files with
    label maps. Without a name, a case is named after its image's file, and after its folder too where several files
    have the same name (``p1/ct.nii.gz``, ``p2/ct.nii.gz``). ``path`` is the file itself, or a folder that holds just
    one ``.json``.

    Raises:
        ValueError: for a list that cannot be understood.
    """
    if path.is_dir():
        lists = sorted(path.glob("*.json"))
        if len(lists) != 1:
            return None
        path = lists[0]
    if path.suffix != ".json":
        return None
    content = _read_object(path)
    return CaseFolder(
        tuple(_listed_cases(content, path)), _named_labels(content.get("labels", {}), path), _modality(content)
    )


def read_busi(root: Path) -> CaseFolder | None:
    """BUSI: ``benign (1).png`` with ``benign (1)_mask.png``, and ``_mask_1.png`` for a further lesion.

    The folders ``benign``, ``malignant`` and ``normal`` are read, wherever they are below ``root``. Masks of one image
    become one label, 1. A normal image has an empty mask.
    """
    masks: dict[Path, list[Path]] = {}
    for mask in sorted(root.rglob("*_mask*.png")):
        found = re.fullmatch(r"(.+)_mask(_\d+)?\.png", mask.name)
        if found and mask.parent.name in ("benign", "malignant", "normal"):
            masks.setdefault(mask.with_name(f"{found[1]}.png"), []).append(mask)
    if not masks:
        return None
    cases = [
        Case(image.stem, image, tuple(MaskFile(mask, 1) for mask in files), image.stem)
        for image, files in sorted(masks.items(), key=lambda item: _natural(item[0].stem))
    ]
    return CaseFolder(tuple(cases), {"lesion": 1}, "US")


def read_abdomen_ct_1k(root: Path) -> CaseFolder | None:
    """AbdomenCT-1K: images ``Case_00001_0000.nii.gz`` in any folders, masks ``Case_00001.nii.gz`` in ``Mask``.

    A case without a mask is left out: 50 test cases have none.
    """
    images = {path.name.removesuffix("_0000.nii.gz"): path for path in sorted(root.rglob("Case_*_0000.nii.gz"))}
    masks = {path.name.removesuffix(".nii.gz"): path for path in sorted(root.rglob("Mask*/**/Case_?????.nii.gz"))}
    cases = [
        Case(name, image, (MaskFile(masks[name]),), name) for name, image in sorted(images.items()) if name in masks
    ]
    return CaseFolder(tuple(cases), {}, "CT") if cases else None


def read_case_folders(root: Path) -> CaseFolder | None:
    """One folder a case with ``image.nii.gz`` and one mask a structure beside it, named after the structure.

    The layout of SegRap2023 (``segrap_0000/image.nii.gz``, ``segrap_0000/Brain.nii.gz``, ...; ``image_contrast`` is
    left out). Structures may overlap. Values follow the order of the names.
    """
    images = sorted(root.glob("*/image.nii.gz"))
    structures: dict[Path, dict[str, Path]] = {
        image: {
            mask.name.removesuffix(".nii.gz"): mask
            for mask in sorted(image.parent.glob("*.nii.gz"))
            if not mask.name.startswith("image")
        }
        for image in images
    }
    names = sorted({name for masks in structures.values() for name in masks})
    if not names:
        return None
    labels = {name: value for value, name in enumerate(names, start=1)}
    cases = [
        Case(
            image.parent.name,
            image,
            tuple(MaskFile(mask, labels[name]) for name, mask in masks.items()),
            image.parent.name,
        )
        for image, masks in structures.items()
    ]
    return CaseFolder(tuple(cases), labels, "CT")


LAYOUTS: dict[str, Callable[[Path], CaseFolder | None]] = {
    "msd": read_msd,
    "busi": read_busi,
    "abdomen_ct_1k": read_abdomen_ct_1k,
    "case_folders": read_case_folders,
    "data_list": read_data_list,
}


def read_layout(root: Path, layouts: Sequence[str]) -> CaseFolder:
    """The cases of a folder, by the first of the layouts that fits it.

    Raises:
        FileNotFoundError: where there is no such folder.
        ValueError: where none of the layouts fits, a list cannot be understood, or two cases have the same name.
    """
    if not root.exists():
        raise FileNotFoundError(f"{root}: there is no such folder.")
    for layout in layouts:
        folder = LAYOUTS[layout](root)
        if folder is not None:
            break
    else:
        expected = "".join(f"\n  - {layout}: {_first_line(LAYOUTS[layout])}" for layout in layouts)
        raise ValueError(f"{root}: the folder is not laid out in any of the ways that are known for it:{expected}")
    if not folder.cases:
        raise ValueError(f"{root}: the folder holds no case with an image and a mask.")
    names = [case.name for case in folder.cases]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ValueError(
            f"{root}: several cases have the same name: {', '.join(doubled[:5])}. Rename files, or give each "
            'entry of a data list a "name".'
        )
    return folder


def discover_labels(cases: Sequence[Case]) -> dict[str, int]:
    """The labels that occur in the masks, named "label 1" and so on; masks that cannot be read are passed over."""
    values: set[int] = set()
    for case in cases:
        for mask in case.masks:
            try:
                array = read_mask(mask.path).array[0]
            except (OSError, ValueError):
                continue  # reported when the case itself is loaded
            values |= set(labels_in(array)) if mask.value is None else {mask.value}
    return {f"label {value}": value for value in sorted(values)}


def _read_object(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f'{path}: a JSON object with the lists "training" and "validation" is expected.')
    return content


def _modality(content: Mapping[str, Any]) -> str:
    """Of the first channel: from {"0": "CT"} (MSD), ["CT"] or "CT"."""
    modality = content.get("modality", content.get("channel_names", ""))
    if isinstance(modality, dict):
        modality = list(modality.values())
    return str(next(iter(modality), "") if isinstance(modality, list) else modality)


def _listed_cases(content: Mapping[str, Any], path: Path) -> list[Case]:
    """Cases of a MONAI data list; they have a split only where the list itself has cases for validation."""
    listed: list[tuple[str, Mapping[str, Any], Path]] = []
    for part in ("training", "validation"):
        entries = content.get(part) or []
        if not isinstance(entries, list):
            raise ValueError(f'{path}: "{part}" must be a list such as [{{"image": ..., "label": ...}}].')
        for entry in entries:
            if not isinstance(entry, dict) or "image" not in entry or "label" not in entry:
                raise ValueError(f'{path}: an entry of "{part}" has no "image" or no "label": {entry!r}.')
            masks = entry["label"] if isinstance(entry["label"], list) else [entry["label"]]
            if not all(isinstance(file, str) for file in (entry["image"], *masks)):
                raise ValueError(f'{path}: an entry of "{part}" names no files: {entry!r}.')
            listed.append((part, entry | {"label": masks}, listed_file(path.parent, entry["image"])))
    files = Counter(without_ending(image.name) for _, _, image in listed)
    cases = []
    for part, entry, image in listed:
        file = without_ending(image.name)
        name = str(entry.get("name", file if files[file] == 1 else f"{image.parent.name}_{file}"))
        first_channel = image.with_name(f"{file}_0000{image.name[len(file) :]}")  # nnU-Net's lists leave the ending out
        if not image.exists() and first_channel.exists():
            image = first_channel
        cases.append(
            Case(
                name=name,
                image=image,
                masks=tuple(MaskFile(listed_file(path.parent, mask)) for mask in entry["label"]),
                patient=str(entry.get("patient", name)),
                split=part if content.get("validation") else None,
            )
        )
    return cases


def _paired_cases(images: Path, masks: Path, split: str | None) -> list[Case]:
    by_name = {without_ending(mask.name): mask for mask in _image_files(masks)}
    cases = []
    for image in _image_files(images):
        name = re.sub(r"_0000$", "", without_ending(image.name))
        if name in by_name:
            cases.append(Case(name, image, (MaskFile(by_name[name]),), name, split))
    return cases


def _image_files(folder: Path) -> list[Path]:
    files = [file for file in folder.iterdir() if not file.name.startswith(".")] if folder.is_dir() else []
    return sorted(file for file in files if file.name.lower().endswith(IMAGE_SUFFIXES))


def _named_labels(labels: Any, path: Path) -> dict[str, int]:
    """name -> value without background, from {"1": "liver"} (MSD), {"liver": 1} (nnU-Net) or ["liver"]."""
    if isinstance(labels, list):
        has_background = bool(labels) and str(labels[0]).lower() == "background"
        labels = {name: value for value, name in enumerate(labels, start=0 if has_background else 1)}
    if not isinstance(labels, dict):
        raise ValueError(f'{path}: "labels" must be an object such as {{"1": "liver"}} or {{"liver": 1}}.')
    named = {}
    for key, value in labels.items():
        pair = (str(value), key) if str(key).isdigit() else (str(key), value)
        try:
            number = int(pair[1])
        except (TypeError, ValueError):
            raise ValueError(f'{path}: the entry {key!r}: {value!r} of "labels" has no whole number.') from None
        if number != 0:
            named[pair[0]] = number
    return named


def _natural(name: str) -> list[tuple[str, int]]:
    """Sorts "benign (2)" before "benign (10)"."""
    return [(text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", name)]


def _first_line(layout: Callable[..., Any]) -> str:
    return (layout.__doc__ or "").strip().splitlines()[0]
