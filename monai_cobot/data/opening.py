"""From a data set's name and folder to the cases that training and validation use: one call for a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from monai_cobot.data.cases import Case
from monai_cobot.data.layouts import discover_labels, read_layout
from monai_cobot.data.phantom import generate_phantom
from monai_cobot.data.recipes import Recipe, find_recipe
from monai_cobot.data.splits import draw_cases, split_by_file, split_by_fraction, split_by_own, take_cases
from monai_cobot.transforms.intensity import find_preset

__all__ = ["CaseSplit", "open_dataset"]


@dataclass(frozen=True)
class CaseSplit:
    """A data set, ready to be used.

    Attributes:
        training, validation: its cases; no patient is in both.
        labels: name -> value of the labels that were chosen.
        preset: name of the intensity preset.
        recipe: what the data set is.
    """

    training: list[Case]
    validation: list[Case]
    labels: dict[str, int]
    preset: str
    recipe: Recipe


def open_dataset(
    dataset: str,
    dataset_dir: str | Path,
    *,
    label: str | int | Sequence[str | int] = "all",
    preset: str | None = None,
    split: str | Path | None = None,
    validation_fraction: float = 0.2,
    seed: int = 0,
    max_cases: int | None = None,
    training_cases: int | None = None,
) -> CaseSplit:
    """Finds the cases of a data set, chooses labels and divides the cases by patient. Images are not read yet.

    Args:
        dataset: name of a recipe.
        dataset_dir: its folder, or a folder that holds the Decathlon task's folder; for "msd" also a data list. The
            phantom is generated here where the folder is missing.
        label: name or value of a label, several of them, or "all".
        preset: intensity preset in place of the recipe's.
        split: a JSON file with the names of training and validation; None for the data set's own split and, where it
            has none, for a random share of the patients.
        validation_fraction: that share.
        seed: of that share, of ``max_cases`` and of ``training_cases``.
        max_cases: at most so many cases in all; None for all.
        training_cases: at most so many of them for training, and the same for validation; None for all. Fewer cases
            are among those that more would be.

    Raises:
        FileNotFoundError: where the folder or the split is missing.
        ValueError: for an unknown recipe, label or preset, a folder in another layout, or a split that does not work.
    """
    recipe = find_recipe(dataset)
    root = Path(dataset_dir)
    if dataset == "phantom" and not root.exists():
        _make_phantom(root)
    if not root.exists():
        raise FileNotFoundError(f"{root}: there is no such folder. {recipe.title} is had at {recipe.url}.")
    if recipe.msd_task is not None and (root / recipe.msd_task).is_dir():
        root = root / recipe.msd_task
    folder = read_layout(root, recipe.layouts)
    named = folder.labels or recipe.labels or discover_labels(folder.cases)
    labels = _choose_labels(dict(named), label, root)
    preset = preset or recipe.preset or _preset_for(folder.modality, root)
    find_preset(preset)
    if split is not None:
        parts = split_by_file(folder.cases, split)
    elif any(case.split for case in folder.cases):
        parts = split_by_own(folder.cases)
    else:
        parts = split_by_fraction(folder.cases, validation_fraction, seed)
    if max_cases is not None:
        parts = take_cases(parts, max_cases, seed)
    if training_cases is not None:
        parts = draw_cases(parts[0], training_cases, seed), parts[1]
    return CaseSplit(*parts, labels=labels, preset=preset, recipe=recipe)


def _make_phantom(root: Path) -> None:
    try:
        generate_phantom(root)
    except OSError:
        # Of several processes that make it at the same time, one is first; the others' would have been the same.
        if not (root / "dataset.json").exists():
            raise


def _choose_labels(named: dict[str, int], label: str | int | Sequence[str | int], root: Path) -> dict[str, int]:
    if label == "all":
        return named
    chosen = {}
    for wanted in [label] if isinstance(label, (str, int)) else label:
        found = [name for name, value in named.items() if value == wanted or name.lower() == str(wanted).lower()]
        if not found:
            there = ", ".join(f"{name} = {value}" for name, value in named.items())
            raise ValueError(f"{root}: there is no label {wanted!r}; there are {there}.")
        chosen[found[0]] = named[found[0]]
    if not chosen:
        raise ValueError('no label is chosen; name one, several, or "all".')
    return chosen


def _preset_for(modality: str, root: Path) -> str:
    for beginning, preset in (("CT", "ct_sam_cobot"), ("MR", "mr"), ("US", "ultrasound"), ("ULTRASOUND", "ultrasound")):
        if modality.upper().startswith(beginning):
            return preset
    raise ValueError(
        f"{root}: it does not say whether the images are CT or MR (modality {modality!r}); choose a preset."
    )
