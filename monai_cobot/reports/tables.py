"""Tables of the DSC: for the terminal, for a Markdown page, and per case as CSV."""

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from monai_cobot.files import write_atomically
from monai_cobot.reports.dice import CaseScores, LabelSummary

_Row = tuple[str, ...]


def dice_table(columns: Mapping[str, CaseScores], *, markdown: bool = False) -> str:
    """The DSC of each label: number of cases, mean and standard deviation over them, and the mean over labels.

    Two or more columns end with the gain of the last over the one before it. A case without a DSC in a column is left
    out of that column alone; where the columns have different numbers of cases, all of them are shown.

    Args:
        columns: a column's name to the DSC of every case and label, e.g. ``{"zero-shot": ..., "fine-tuned": ...}``.
        markdown: as a Markdown table instead of plain aligned columns.

    Raises:
        ValueError: if there is no column, or one without a score.
    """
    _check_there_are(columns)
    compared = len(columns) > 1
    summaries = [{summary.label: summary for summary in scores.summary()} for scores in columns.values()]
    rows = []
    for label in dict.fromkeys(label for of_column in summaries for label in of_column):
        found = [of_column.get(label) for of_column in summaries]
        numbers = [str(summary.cases) if summary else "0" for summary in found]
        cases = numbers[0] if len(set(numbers)) == 1 else ", ".join(numbers)
        cells = [_mean(summary.mean, summary.standard_deviation) if summary else "-" for summary in found]
        rows.append((label, cases, *cells, *([_gain(*found[-2:])] if compared else [])))
    means = [scores.mean() for scores in columns.values()]
    last = ("mean", "", *(f"{mean:.3f}" for mean in means), *([f"{means[-1] - means[-2]:+.3f}"] if compared else []))
    header = ("label", "cases", *(f"DSC {name}".strip() for name in columns), *(["gain"] if compared else []))
    return render_table(header, rows, last, markdown=markdown)


def write_csv(path: str | os.PathLike[str], columns: Mapping[str, CaseScores]) -> Path:
    """Write the DSC of every case and label, one line each: ``case,label,dice_<column>,...``; empty where a column has
    none.

    Args:
        path: the file to write.
        columns: a column's name to its scores, e.g. ``{"before": ..., "after": ...}``.

    Returns:
        The path written.

    Raises:
        ValueError: if there is no column.
        OSError: if the file cannot be written.
    """
    _check_there_are(columns)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", "label", *(f"dice_{name}" for name in columns)])
    for key in dict.fromkeys(key for scores in columns.values() for key in scores.scores):
        found = (scores.scores.get(key) for scores in columns.values())
        writer.writerow([*key, *("" if dice is None else f"{dice:.3f}" for dice in found)])
    return write_atomically(path, text.getvalue().encode())


def _mean(mean: float, standard_deviation: float) -> str:
    return f"{mean:.3f}" if math.isnan(standard_deviation) else f"{mean:.3f} ± {standard_deviation:.3f}"


def _gain(before: LabelSummary | None, after: LabelSummary | None) -> str:
    return "-" if before is None or after is None else f"{after.mean - before.mean:+.3f}"


def _check_there_are(columns: Mapping[str, CaseScores]) -> None:
    if not columns:
        raise ValueError("expected at least one column of scores, got none")


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
