"""``cobot evaluate``: a folder of masks against a folder of true masks."""

from __future__ import annotations

import csv
import io
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from monai_cobot.cli.batch import progress_bars, run_batch

if TYPE_CHECKING:
    from monai_cobot.data import Volume
    from monai_cobot.reports import MaskScores, OverlaySample

__all__ = ["evaluate"]

_MOST_PICTURES = 16


@dataclass(frozen=True)
class _Compared:
    """One label of one case."""

    case: str
    label: int
    scores: MaskScores
    unit: str
    in_truth: bool
    in_prediction: bool


def evaluate(
    predictions: Annotated[Path, typer.Argument(help="Folder of predicted masks, in subfolders too.")],
    truths: Annotated[Path, typer.Argument(help="Folder of true masks of the same names, whatever the file format.")],
    images: Annotated[Path | None, typer.Option(help="Folder of images of the same names, for pictures.")] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of scores.csv, summary.csv, scores.png and overlay.png.")
    ] = Path("evaluation"),
    tolerance: Annotated[
        float, typer.Option(min=0, help="Of the surface DSC, in millimetres; pixels in pictures.")
    ] = 2.0,
    preset: Annotated[
        str | None, typer.Option(help="Intensities of the images in pictures; without, guessed from each image.")
    ] = None,
) -> None:
    """Compare masks case by case: DSC, IoU, surface DSC and HD95 of each label that either of them has.

    A case that cannot be compared is passed over; what failed stands at the end, and the exit code is then 1.
    """
    from monai_cobot.data import labels_in, read_mask
    from monai_cobot.data.cases import check_same_grid
    from monai_cobot.files import write_atomically
    from monai_cobot.reports import distance_unit, overlay_sheet, plot_mask_scores, score_mask

    expected = _masks_in(truths, output)
    predicted = _masks_in(predictions, output)
    surplus = sorted(set(predicted) - set(expected))
    if surplus:
        print(f"Left out, for there is no true mask: {', '.join(surplus)}", file=sys.stderr)
    pictured = {} if images is None else _masks_in(images, output)
    rows: list[_Compared] = []
    samples: list[OverlaySample] = []

    def compare(name: str) -> None:
        if name not in predicted:
            raise ValueError(f"{predictions} has no mask of this name")
        prediction, truth = read_mask(predicted[name]), read_mask(expected[name])
        check_same_grid(truth, prediction)
        unit = distance_unit(truth.path, prediction.path)
        for label in sorted({*labels_in(truth.array[0]), *labels_in(prediction.array[0])}):
            found, true = prediction.array[0] == label, truth.array[0] == label
            scores = score_mask(found, true, truth.spacing, tolerance)
            rows.append(_Compared(name, label, scores, unit, bool(true.any()), bool(found.any())))
        if name in pictured and len(samples) < _MOST_PICTURES:
            samples.extend(_pictures(name, pictured[name], prediction, truth, preset))

    try:
        with progress_bars() as bars:
            bar = bars.add_task("cases", total=len(expected))

            def compare_next(name: str) -> None:
                bars.update(bar, description=escape(name))
                try:
                    compare(name)
                finally:
                    bars.advance(bar)

            run_batch(sorted(expected), compare_next, str)
    finally:
        if rows:
            print(write_atomically(output / "scores.csv", _as_csv(rows)))
            by_label = _by_label(rows)
            print(write_atomically(output / "summary.csv", _summary(by_label)))
            scores = {name: [row.scores for row in of_label] for name, of_label in by_label.items()}
            unit = " or ".join(sorted({row.unit for row in rows}))
            title = f"{predictions.name} against {truths.name}"
            print(plot_mask_scores(scores, output / "scores.png", title=title, distance_unit=unit))
            _show(scores, unit)
        if samples:
            print(
                overlay_sheet(
                    samples[:_MOST_PICTURES], output / "overlay.png", title="the slice with most of each label"
                )
            )


def _masks_in(folder: Path, but: Path) -> dict[str, Path]:
    """Path in the folder without ending -> file; what lies in the folder ``but``, where results go, is none."""
    from monai_cobot.data import without_ending
    from monai_cobot.files import is_hidden

    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder.")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        name = without_ending(inside.as_posix())
        if name == inside.as_posix() or is_hidden(path, folder) or not path.is_file():
            continue
        if but.resolve() != folder.resolve() and path.resolve().is_relative_to(but.resolve() / ""):
            continue
        if name in found:
            raise ValueError(f"{folder}: {found[name].name} and {path.name} are of one case; leave one of them.")
        found[name] = path
    if not found:
        raise ValueError(f"{folder}: no mask is in this folder.")
    return found


def _as_csv(rows: list[_Compared]) -> bytes:
    from monai_cobot.reports import MEASURES

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", "label", *MEASURES, "distance_unit"])
    for row in rows:
        writer.writerow([row.case, row.label, *(f"{value:.4f}" for value in asdict(row.scores).values()), row.unit])
    return text.getvalue().encode()


def _summary(by_label: dict[str, list[_Compared]]) -> bytes:
    """Mean, SD and median of each label over the cases that have a value; nan where there are too few."""
    from monai_cobot.reports import MEASURES

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [f"{name}_{value}" for name in MEASURES for value in ("mean", "sd", "median")]
    writer.writerow(["label", "cases", "without_truth", "without_prediction", *columns, "distance_unit"])
    for label, rows in by_label.items():
        missing = sum(not row.in_truth for row in rows), sum(not row.in_prediction for row in rows)
        values: list[float] = []
        for name in MEASURES:
            finite = [value for row in rows if math.isfinite(value := getattr(row.scores, name))]
            values += [
                fmean(finite) if finite else math.nan,
                stdev(finite) if len(finite) > 1 else math.nan,
                median(finite) if finite else math.nan,
            ]
        writer.writerow([label, len(rows), *missing, *(f"{value:.4f}" for value in values), rows[0].unit])
    return text.getvalue().encode()


def _by_label(rows: list[_Compared]) -> dict[str, list[_Compared]]:
    """Distances in pixels and in millimetres are never taken together."""
    mixed = len({row.unit for row in rows}) > 1
    found: dict[str, list[_Compared]] = {}
    for row in sorted(rows, key=lambda row: (row.label, row.unit)):
        found.setdefault(f"{row.label} ({row.unit})" if mixed else str(row.label), []).append(row)
    return found


def _show(by_label: dict[str, list[MaskScores]], distance_unit: str) -> None:
    from monai_cobot.reports import MEASURES

    names = [name if unit == "%" else f"{name} {distance_unit}" for name, unit in MEASURES.values()]
    table = Table("label", "cases", *names)
    for label, scores in by_label.items():
        cases = [asdict(case) for case in scores]
        table.add_row(label, str(len(cases)), *(_mean([case[name] for case in cases]) for name in MEASURES))
    Console().print(table)


def _mean(values: list[float]) -> str:
    """Cases without a surface have no distance; how many there are is said."""
    finite = [value for value in values if math.isfinite(value)]
    without = len(values) - len(finite)
    mean = f"{fmean(finite):.3f}" if finite else "-"
    return f"{mean} ({without} without)" if without else mean


def _pictures(name: str, path: Path, predicted: Volume, expected: Volume, preset: str | None) -> list[OverlaySample]:
    """The slice that shows most of each of the truth's labels."""
    import numpy as np

    from monai_cobot.data import labels_in, read_volume
    from monai_cobot.data.cases import check_same_grid
    from monai_cobot.inferers import guess_preset
    from monai_cobot.reports import OverlaySample, mask_dice
    from monai_cobot.transforms import ScaleIntensityPreset, box_from_mask, slices_of

    image = read_volume(path)
    check_same_grid(image, expected)
    scaled = slices_of(ScaleIntensityPreset(preset or guess_preset(image))(image.array), "axial")
    prediction, truth = (slices_of(mask.array, "axial")[:, 0] for mask in (predicted, expected))
    samples = []
    for label in labels_in(truth):
        index = int(np.bincount(np.nonzero(truth == label)[0]).argmax())
        true, found = truth[index] == label, prediction[index] == label
        samples.append(
            OverlaySample(
                image=scaled[index],
                truth=true,
                before=None,
                after=found,
                box=box_from_mask(true),
                title=f"{name}, label {label}, axial slice {index}",
                dice_before=None,
                dice_after=mask_dice(found, true),
            )
        )
    return samples
