"""``cobot evaluate``: a folder of masks against a folder of true masks."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from monai_cobot.cli.batch import run_batch

if TYPE_CHECKING:
    import numpy as np

    from monai_cobot.reports import MaskScores, OverlaySample

__all__ = ["evaluate"]

_NAMES = {"dice": "DSC", "iou": "IoU", "surface_dice": "surface DSC", "hausdorff95": "HD95 mm"}


def evaluate(
    predictions: Annotated[Path, typer.Argument(help="Folder of predicted masks.")],
    truths: Annotated[Path, typer.Argument(help="Folder of true masks of the same names, endings aside.")],
    images: Annotated[Path | None, typer.Option(help="Folder of images of the same names, for pictures.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of scores.csv and pictures.")] = Path(
        "evaluation"
    ),
    tolerance: Annotated[float, typer.Option(min=0, help="Of the surface DSC, in millimetres.")] = 2.0,
    preset: Annotated[str, typer.Option(help="Intensities of the images in pictures.")] = "mr",
) -> None:
    """Compare masks case by case: DSC, IoU, surface DSC and HD95 of each label that either of them has.

    A case that cannot be compared is passed over; what failed stands at the end, and the exit code is then 1.
    """
    from monai_cobot.files import write_atomically
    from monai_cobot.reports import overlay_sheet

    expected = _masks_in(truths)
    predicted = _masks_in(predictions)
    pictured = {} if images is None else _masks_in(images)
    rows: list[tuple[str, int, MaskScores]] = []
    samples: list[OverlaySample] = []

    def compare(name: str) -> None:
        if name not in predicted:
            raise ValueError(f"{predictions} has no mask of this name")
        image = pictured.get(name)
        rows.extend(_compare(name, predicted[name], expected[name], tolerance))
        if image is not None and len(samples) < 16:
            samples.extend(_pictures(name, image, predicted[name], expected[name], preset))

    try:
        run_batch(sorted(expected), compare, str)
    finally:
        if rows:
            print(write_atomically(output / "scores.csv", _as_csv(rows)))
            _show(rows)
        if samples:
            print(overlay_sheet(samples[:16], output / "overlay.png", title="the slice with most of each label"))


def _masks_in(folder: Path) -> dict[str, Path]:
    """name without ending -> file, or folder of a DICOM series."""
    from monai_cobot.data import IMAGE_SUFFIXES

    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder.")
    found = {}
    for path in sorted(folder.iterdir()):
        ending = max((end for end in IMAGE_SUFFIXES if path.name.lower().endswith(end)), key=len, default=None)
        if ending is not None and not path.name.startswith("."):
            found[path.name[: -len(ending)]] = path
    if not found:
        raise ValueError(f"{folder}: no mask is in this folder.")
    return found


def _compare(name: str, predicted: Path, expected: Path, tolerance: float) -> list[tuple[str, int, MaskScores]]:
    from monai_cobot.data import read_mask
    from monai_cobot.data.cases import check_same_grid
    from monai_cobot.reports import score_mask

    prediction, truth = read_mask(predicted), read_mask(expected)
    check_same_grid(truth, prediction)
    return [
        (name, label, score_mask(prediction.array[0] == label, truth.array[0] == label, truth.spacing, tolerance))
        for label in _labels(truth.array, prediction.array)
    ]


def _labels(*masks: np.ndarray) -> list[int]:
    """All that occur in any of the masks."""
    import numpy as np

    return sorted({int(label) for mask in masks for label in np.unique(mask) if label})


def _as_csv(rows: list[tuple[str, int, MaskScores]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", "label", *_NAMES])
    for name, label, scores in rows:
        writer.writerow([name, label, *(f"{value:.4f}" for value in asdict(scores).values())])
    return text.getvalue().encode()


def _show(rows: list[tuple[str, int, MaskScores]]) -> None:
    table = Table("label", "cases", *_NAMES.values())
    for label in sorted({label for _, label, _ in rows}):
        of_label = [asdict(scores) for _, value, scores in rows if value == label]
        table.add_row(str(label), str(len(of_label)), *(_mean([one[name] for one in of_label]) for name in _NAMES))
    Console().print(table)


def _mean(values: list[float]) -> str:
    """Cases without a surface have no distance; how many there are is said."""
    finite = [value for value in values if math.isfinite(value)]
    without = len(values) - len(finite)
    mean = f"{fmean(finite):.3f}" if finite else "-"
    return f"{mean} ({without} without)" if without else mean


def _pictures(name: str, image: Path, predicted: Path, expected: Path, preset: str) -> list[OverlaySample]:
    """The slice that shows most of each of the truth's labels."""
    import numpy as np

    from monai_cobot.data import read_mask, read_volume
    from monai_cobot.reports import OverlaySample, dice_coefficient
    from monai_cobot.transforms import ScaleIntensityPreset, box_from_mask, slices_of

    scaled = slices_of(ScaleIntensityPreset(preset)(read_volume(image).array), "axial")
    prediction, truth = (slices_of(read_mask(path).array, "axial")[:, 0] for path in (predicted, expected))
    samples = []
    for label in _labels(truth):
        index = int((truth == label).sum(axis=(1, 2)).argmax())
        true, found = truth[index] == label, prediction[index] == label
        shared, *sizes = (int(np.count_nonzero(mask)) for mask in (true & found, found, true))
        samples.append(
            OverlaySample(
                image=scaled[index],
                truth=true,
                before=None,
                after=found,
                box=box_from_mask(true),
                title=f"{name}, label {label}, axial slice {index}",
                dice_before=None,
                dice_after=dice_coefficient(shared, *sizes),
            )
        )
    return samples
