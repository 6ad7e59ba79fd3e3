"""The tables of a study, of the runs that are done."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev

from monai_cobot.files import write_atomically
from monai_cobot.reports.tables import render_table
from monai_cobot.study.plan import NOT_TRAINED, Plan, ablation_rows, base_of, method_of_width
from monai_cobot.study.records import Record
from monai_cobot.study.splits import read_patients
from monai_cobot.study.statistics import PairedTest, compare_records, holm

__all__ = [
    "Comparison",
    "ablation_tables",
    "cost_table",
    "main_table",
    "paired_tests",
    "rate_table",
    "test_tables",
    "width_courses",
    "width_table",
    "write_rates",
    "write_summary",
    "write_test_scores",
    "write_tests",
]

_NOTHING = "-"
_SUMMARY = (
    "dataset",
    "method",
    "encoder_parameters",
    "decoder_parameters",
    "learning_rate",
    "seeds",
    "dice_mean",
    "dice_deviation",
    "seconds_per_epoch",
    "peak_memory_bytes",
    "adapter_bytes",
    "device",
)


@dataclass(frozen=True)
class Comparison:
    """Two methods on a data set, by their names in ``Plan.methods``.

    Attributes:
        dataset: the data set.
        base: what the method is compared with.
        method: the one that may be better.
    """

    dataset: str
    base: str
    method: str


def main_table(plan: Plan) -> str:
    """As the paper's Table 4: a row a method, with the parameters in the image encoder, the DSC on each data set in
    percent, mean ± standard deviation over seeds, and the average over data sets. The ellipse inscribed in the box, for
    which no network is needed, comes first.
    """
    datasets = list(plan.study.datasets)
    rows = _ellipse_row(plan, datasets)
    rows += [
        (name, _parameters(plan, name), *_dice_cells(plan, name, datasets), _average(plan, name, datasets))
        for name in plan.study.methods
    ]
    return render_table(("method", "parameters", *datasets, "average"), rows, markdown=True)


def rate_table(plan: Plan) -> str | None:
    """The learning rate that was chosen for each method and data set; None without a sweep."""
    if plan.study.learning_rates is None:
        return None
    rates = plan.study.learning_rates.rates

    def cell(dataset: str, method: str) -> str:
        if not plan.choice_runs(dataset, method):
            return _NOTHING
        try:
            rate = plan.chosen_rate(dataset, method)
        except ValueError:
            return "diverged"
        if rate is None:
            return _NOTHING
        return f"{rate:g}" + (" (at the end)" if len(rates) > 1 and rate in (rates[0], rates[-1]) else "")

    rows = [(name, *(cell(dataset, name) for dataset in plan.study.datasets)) for name in plan.methods]
    return render_table(("method", *plan.study.datasets), rows, markdown=True)


def cost_table(plan: Plan) -> str:
    """What each method costs: the median over its final runs of seconds an epoch and peak memory, and sizes."""

    def cells(name: str) -> tuple[str, ...]:
        records = [record for dataset in plan.study.datasets for record in plan.records(dataset, name)]
        trained = [record for record in records if record.epochs]
        peaks = [record.peak_memory for record in records if record.peak_memory is not None]
        seconds = [
            _median([record.seconds / record.epochs for record in plan.records(dataset, name) if record.epochs], ".1f")
            for dataset in plan.study.datasets
        ]
        return (
            *seconds,
            _median([peak / 1e6 for peak in peaks], ".0f"),
            _median([record.adapter_size / 1e6 for record in trained], ".2f"),
            f"{trained[0].decoder_parameters:,}" if trained else _NOTHING,
        )

    datasets = [f"{dataset}, s" for dataset in plan.study.datasets]
    header = ("method", *datasets, "peak memory, MB", "adapter, MB", "parameters in the decoder")
    return render_table(header, [(name, *cells(name)) for name in plan.study.methods], markdown=True)


def paired_tests(plan: Plan) -> dict[str, dict[Comparison, PairedTest]]:
    """Title -> comparison -> its test, where all seeds of both methods are done; p is corrected within each title."""
    found = {}
    for title, comparisons in _comparisons(plan).items():
        tests = {}
        for comparison in comparisons:
            patients = read_patients(plan.patients[comparison.dataset].test)
            base, other = (_of_seeds(plan, comparison.dataset, name) for name in (comparison.base, comparison.method))
            if len(base) == len(other) == len(plan.study.seeds):
                tests[comparison] = compare_records(base, other, patients)
        if tests:
            found[title] = dict(zip(tests, holm(list(tests.values())), strict=True))
    return found


def _of_seeds(plan: Plan, dataset: str, method: str) -> list[Record]:
    """The records of a method; one that is not trained is with every seed what it is with the first."""
    records = plan.records(dataset, method)
    return records * len(plan.study.seeds) if plan.methods[method]["method"] == NOT_TRAINED else records


def test_tables(plan: Plan) -> dict[str, str]:
    """`paired_tests` as tables by title."""
    header = (
        *("method", "against", "data set", "patients", "gain, % DSC", "95 % interval", "of each seed"),
        *("better / worse", "p", "p, corrected"),
    )
    tables = {}
    for title, tests in paired_tests(plan).items():
        rows = [
            (
                comparison.method,
                comparison.base,
                comparison.dataset,
                str(test.patients),
                _percent(test.gain),
                _NOTHING if test.interval is None else " to ".join(map(_percent, test.interval)),
                " / ".join(map(_percent, test.seed_gains)),
                f"{test.better} / {test.worse}",
                _p(test.p),
                _p(test.p_adjusted),
            )
            for comparison, test in tests.items()
        ]
        tables[title] = render_table(header, rows, markdown=True, texts=3)
    return tables


def _comparisons(plan: Plan) -> dict[str, list[Comparison]]:
    """What is tested, by title: the tests of a title are counted together, and no title has what an earlier one has: a
    test would have several corrected p.
    """
    study = plan.study
    bases = {name: base_of(study, plan.methods, name) for name in plan.methods}
    found = {
        "COBOT against its base": [
            Comparison(dataset, base, name)
            for dataset in study.datasets
            for name in study.methods
            if (base := bases[name]) is not None
        ]
    }
    if study.compare:
        found["Comparisons that were asked for"] = [
            Comparison(dataset, base, name)
            for base, name in study.compare
            for dataset in study.datasets
            if all(plan.has(dataset, method) for method in (base, name))
        ]
    if study.ablation is not None:
        tables = [rows for _, rows in ablation_rows(study, plan.methods).values()]
        found["Tests of the ablation"] = [
            Comparison(dataset, rows[0].method, row.method)
            for dataset in study.ablation.datasets
            for rows in tables
            for row in rows[1:]
        ]
    if study.widths is not None:
        found["Tests of the widths"] = [
            Comparison(dataset, base, method)
            for dataset in study.widths.datasets
            for name in study.widths.of
            for width in study.widths.values
            if (base := bases[method := method_of_width(study, plan.methods, name, width)]) is not None
        ]
    seen: set[Comparison] = set()
    for title, comparisons in found.items():
        found[title] = [comparison for comparison in dict.fromkeys(comparisons) if comparison not in seen]
        seen.update(comparisons)
    return found


def ablation_tables(plan: Plan) -> dict[str, str]:
    """The paper's Tables 1 to 3 by title; none without an ablation."""
    if plan.study.ablation is None:
        return {}
    datasets = plan.study.ablation.datasets
    tables = {}
    for title, (columns, rows) in ablation_rows(plan.study, plan.methods).items():
        cells = [(*row.parts, _parameters(plan, row.method), *_dice_cells(plan, row.method, datasets)) for row in rows]
        tables[title] = render_table((*columns, "parameters", *datasets), cells, markdown=True, texts=len(columns))
    return tables


def width_courses(plan: Plan) -> dict[str, dict[str, dict[int, list[float]]]]:
    """Data set -> method -> width -> the DSC of each seed in [0, 1], of what is done."""
    widths = plan.study.widths
    if widths is None:
        return {}
    courses: dict[str, dict[str, dict[int, list[float]]]] = {}
    for dataset in widths.datasets:
        for name in widths.of:
            for value in widths.values:
                method = method_of_width(plan.study, plan.methods, name, value)
                if dice := _dice(plan.records(dataset, method)):
                    courses.setdefault(dataset, {}).setdefault(name, {})[value] = dice
    return courses


def width_table(plan: Plan) -> str | None:
    """The numbers of the paper's Figure 5; None where there are none."""
    widths = plan.study.widths
    if widths is None:
        return None
    rows = []
    for name in widths.of:
        for value in widths.values:
            method = method_of_width(plan.study, plan.methods, name, value)
            rows.append((name, str(value), _parameters(plan, method), *_dice_cells(plan, method, widths.datasets)))
    return render_table(("method", "width", "parameters", *widths.datasets), rows, markdown=True)


def write_summary(plan: Plan) -> Path:
    """Write ``results.csv``: a line a method and data set, also of those that are varied, and the average over data
    sets of each method that has been on all.
    """
    rows = [
        [dataset, name, *_summary(records)]
        for dataset in plan.study.datasets
        for name in plan.methods
        if (records := plan.records(dataset, name))
    ]
    for name in plan.study.methods:
        average = _average_dice(plan, name, list(plan.study.datasets))
        if average is not None:
            values = {"dataset": "average", "method": name, "dice_mean": f"{average:.6f}"}
            rows.append([values.get(column, "") for column in _SUMMARY])
    return _write_csv(plan.folder / "results.csv", _SUMMARY, rows)


def write_tests(plan: Plan) -> Path:
    """Write ``tests.csv``: every paired test, with the whole of its p."""
    header = (
        *("table", "dataset", "method", "base", "patients", "gain", "interval_low", "interval_high"),
        *("better", "worse", "p", "p_corrected"),
    )
    rows = [
        [
            *(title, comparison.dataset, comparison.method, comparison.base, test.patients, f"{test.gain:.6f}"),
            *(("", "") if test.interval is None else (f"{end:.6f}" for end in test.interval)),
            *(test.better, test.worse, test.p, test.p_adjusted),
        ]
        for title, tests in paired_tests(plan).items()
        for comparison, test in tests.items()
    ]
    return _write_csv(plan.folder / "tests.csv", header, rows)


def write_rates(plan: Plan) -> Path:
    """Write ``rates.csv``: the DSC of each run that chooses a learning rate; without one where training diverged."""
    rows = [
        [run.dataset, run.method, run.learning_rate, run.seed, "" if (dice := record.dice()) is None else f"{dice:.6f}"]
        for run in plan.runs
        if run.learning_rate is not None and (record := plan.record(run)) is not None
    ]
    return _write_csv(plan.folder / "rates.csv", ("dataset", "method", "learning_rate", "seed", "dice"), rows)


def write_test_scores(plan: Plan) -> Path:
    """Write ``scores.csv``: the DSC of each run, patient, case and label of the tests."""
    rows = []
    for run in plan.runs:
        record = plan.record(run)
        if run.learning_rate is not None or record is None:
            continue
        patients = read_patients(plan.patients[run.dataset].test)
        for case, label, dice in record.scores:
            rows.append([run.dataset, run.method, run.seed, patients[case], case, label, f"{dice:.6f}"])
    header = ("dataset", "method", "seed", "patient", "case", "label", "dice")
    return _write_csv(plan.folder / "scores.csv", header, rows)


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return write_atomically(path, text.getvalue().encode())


def _summary(records: Sequence[Record]) -> list[object]:
    """The columns of ``results.csv`` behind data set and method."""
    dice, first = _dice(records), records[0]
    seconds = [record.seconds / record.epochs for record in records if record.epochs]
    peaks = [record.peak_memory for record in records if record.peak_memory is not None]
    return [
        first.encoder_parameters,
        first.decoder_parameters,
        first.settings.get("learning_rate", ""),
        len(records),
        f"{fmean(dice):.6f}",
        f"{stdev(dice):.6f}" if len(dice) > 1 else "",
        f"{median(seconds):.3f}" if seconds else "",
        int(median(peaks)) if peaks else "",
        first.adapter_size,
        first.device,
    ]


def _dice(records: Sequence[Record]) -> list[float]:
    return [dice for record in records if (dice := record.dice()) is not None]


def _dice_cells(plan: Plan, method: str, datasets: Sequence[str]) -> list[str]:
    cells = []
    for dataset in datasets:
        wanted = _wanted(plan, dataset, method)
        dice = [100 * value for value in _dice(plan.records(dataset, method))]
        cell = f"{fmean(dice):.1f}" if dice else _NOTHING
        cell += f" ± {stdev(dice):.1f}" if len(dice) > 1 else ""
        cells.append(cell + (f" ({len(dice)} of {wanted})" if 0 < len(dice) < wanted else ""))
    return cells


def _wanted(plan: Plan, dataset: str, method: str) -> int:
    """How many final runs a method has on a data set."""
    return sum((run.dataset, run.method, run.learning_rate) == (dataset, method, None) for run in plan.runs)


def _ellipse_row(plan: Plan, datasets: Sequence[str]) -> list[tuple[str, ...]]:
    """The same boxes in every run: one run of a data set says it."""
    found = []
    for dataset in datasets:
        runs = [run for run in plan.runs if run.dataset == dataset and run.learning_rate is None]
        dice = (record.ellipse_dice() for run in runs if (record := plan.record(run)) is not None)
        found.append(next((value for value in dice if value is not None), None))
    if all(value is None for value in found):
        return []
    known = [value for value in found if value is not None]
    average = _NOTHING if len(known) < len(found) else f"{100 * fmean(known):.1f}"
    cells = [_NOTHING if value is None else f"{100 * value:.1f}" for value in found]
    return [("ellipse in the box", _NOTHING, *cells, average)]


def _average(plan: Plan, method: str, datasets: Sequence[str]) -> str:
    average = _average_dice(plan, method, datasets)
    return _NOTHING if average is None else f"{100 * average:.1f}"


def _average_dice(plan: Plan, method: str, datasets: Sequence[str]) -> float | None:
    """The mean over data sets of the mean over seeds, in [0, 1]; None where a run of them is missing."""
    found = [_dice(plan.records(dataset, method)) for dataset in datasets]
    complete = all(
        dice and len(dice) == _wanted(plan, dataset, method) for dataset, dice in zip(datasets, found, strict=True)
    )
    return fmean(fmean(dice) for dice in found) if complete else None


def _parameters(plan: Plan, method: str) -> str:
    records = [record for dataset in plan.study.datasets for record in plan.records(dataset, method)]
    return f"{records[0].encoder_parameters:,}" if records else _NOTHING


def _median(values: Sequence[float], form: str) -> str:
    return format(median(values), form) if values else _NOTHING


def _percent(value: float) -> str:
    return f"{100 * value:+.2f}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
