"""Tables of the DSC: for the terminal, for a Markdown page, and per case as CSV."""

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from monai_cobot.files import write_atomically
from monai_cobot.reports.dice import CaseScores

_Row = tuple[str, ...]


def dice_table(columns: Mapping[str, CaseScores], *, markdown: bool = False) -> str:
    """The DSC of each label: number of cases, mean and standard deviation over them, and the mean over labels.

    Two or more columns end with the gain of the last over the one before it.

    Args:
        columns: a column's name to the DSC of every case and label, e.g. ``{"zero-shot": ..., "fine-tuned": ...}``.
        markdown: as a Markdown table instead of plain aligned columns.

    Raises:
        ValueError: if there is no column or no score, or the columns hold different cases or labels.
    """
    _check_same_cases(columns)
    compared = len(columns) > 1
    summaries = [scores.summary() for scores in columns.values()]
    rows = []
    for labels in zip(*summaries, strict=True):
        cells = [_mean(label.mean, label.standard_deviation) for label in labels]
        gain = [f"{labels[-1].mean - labels[-2].mean:+.3f}"] if compared else []
        rows.append((labels[0].label, str(labels[0].cases), *cells, *gain))
    means = [scores.mean() for scores in columns.values()]
    last = ("mean", "", *(f"{mean:.3f}" for mean in means), *([f"{means[-1] - means[-2]:+.3f}"] if compared else []))
    header = ("label", "cases", *(f"DSC {name}".strip() for name in columns), *(["gain"] if compared else []))
    return render_table(header, rows, last, markdown=markdown)


def write_csv(path: str | os.PathLike[str], columns: Mapping[str, CaseScores]) -> Path:
    """Write the DSC of every case and label, one line each: ``case,label,dice_<column>,...``.

    Args:
        path: the file to write.
        columns: a column's name to its scores, e.g. ``{"before": ..., "after": ...}``.

    Returns:
        The path written.

    Raises:
        ValueError: if there is no column, or the columns hold different cases or labels.
        OSError: if the file cannot be written.
    """
    _check_same_cases(columns)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", "label", *(f"dice_{name}" for name in columns)])
    for case, label, _ in next(iter(columns.values())):
        writer.writerow([case, label, *(f"{scores.scores[case, label]:.3f}" for scores in columns.values())])
    return write_atomically(path, text.getvalue().encode())


def _mean(mean: float, standard_deviation: float) -> str:
    return f"{mean:.3f}" if math.isnan(standard_deviation) else f"{mean:.3f} ± {standard_deviation:.3f}"


def _check_same_cases(columns: Mapping[str, CaseScores]) -> None:
    if not columns:
        raise ValueError("expected at least one column of scores, got none")
    (first_name, first), *others = columns.items()
    for name, scores in others:
        differing = sorted(first.scores.keys() ^ scores.scores.keys())
        if differing:
            case, label = differing[0]
            raise ValueError(
                f"{first_name!r} and {name!r} must hold the same cases and labels, but {len(differing)} stand in one "
                f"of them only, the first: case {case!r}, label {label!r}; score both on the same validation set"
            )


def render_table(
    header: _Row, rows: Sequence[_Row], last: _Row | None = None, *, markdown: bool = False, texts: int = 1
) -> str:
    """A table as text.

    Args:
        header: the names of the columns.
        rows: as many cells each.
        last: a row that stands apart at the end.
        markdown: as a Markdown table instead of plain aligned columns.
        texts: so many columns on the left hold text and begin at the left; the others hold figures.
    """
    ends = [] if last is None else [last]
    if markdown:
        ends = [tuple(f"**{cell}**" if cell else "" for cell in row) for row in ends]
        header, *rows = [tuple(cell.replace("|", r"\|") for cell in row) for row in [header, *rows]]
    widths = [max(map(len, column)) for column in zip(header, *rows, *ends, strict=True)]

    def aligned(row: _Row) -> list[str]:
        return [
            cell.ljust(width) if i < texts else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]

    if markdown:
        rules = ["-" * width if i < texts else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
        lines = ["| " + " | ".join(aligned(row)) + " |" for row in [header, *rows, *ends]]
        return "\n".join([lines[0], "| " + " | ".join(rules) + " |", *lines[1:]])
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    head, *body = ["  ".join(aligned(row)) for row in [header, *rows]]
    return "\n".join([head, rule, *body, *(line for row in ends for line in (rule, "  ".join(aligned(row))))])
