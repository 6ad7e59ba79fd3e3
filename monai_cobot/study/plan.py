"""The runs of a study: which there are, where each lies, and what it waits for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

from monai.bundle import ConfigParser

from monai_cobot.errors import describe_cause
from monai_cobot.files import read_json, write_atomically
from monai_cobot.networks.checkpoint import base_weights_sha256
from monai_cobot.peft import width_option
from monai_cobot.peft.adapter import ORCHESTRATION_DEFAULTS
from monai_cobot.peft.method import find_method
from monai_cobot.study.description import Options, Study, has_cobot, merge_options, slug
from monai_cobot.study.records import Record, claimed, clear_folder, read_record
from monai_cobot.study.splits import Patients, divide_patients, run_options

__all__ = [
    "AblationRow",
    "Plan",
    "Run",
    "ablation_rows",
    "all_methods",
    "base_of",
    "check_methods",
    "make_plan",
    "method_of_width",
]

ORDERS_FILE = "run.json"
"""What a run is to do, in its folder."""

NOT_TRAINED = "freeze"
"""The method that is measured as it is: no seed and no learning rate makes a difference."""

_OF_SAM = ("sam_variant", "sam_checkpoint", "image_size")
"""The options of the bundle that say which SAM it is."""


@dataclass(frozen=True)
class Run:
    """One training of one method on one data set.

    Attributes:
        dataset, method: their names in the study.
        seed: of the training; the patients are the same for all.
        learning_rate: the one that is tried, for the choice of it; None in a final run.
    """

    dataset: str
    method: str
    seed: int
    learning_rate: float | None = None

    def __str__(self) -> str:
        rate = "" if self.learning_rate is None else f", learning rate {self.learning_rate:g}"
        return f"{self.dataset} · {self.method}{rate} · seed {self.seed}"


@dataclass(frozen=True)
class AblationRow:
    """A row of the paper's Tables 1 to 3.

    Attributes:
        method: the method that it shows, in ``Plan.methods``.
        parts: what of COBOT it has, by the table's columns.
    """

    method: str
    parts: tuple[str, ...]


class Plan:
    """A study, its methods with those that are varied, and its runs in the order in which they are done.

    Attributes:
        study: what is compared.
        folder: of the study's results.
        train_config: the bundle's ``train.json``.
        methods: name -> options: those of the study, of the ablation and of the widths.
        patients: data set -> how its patients are divided.
        runs: all of them, method by method: what is stopped early has whole rows of its tables. Those that choose a
            learning rate come before the others of their method.
    """

    def __init__(
        self,
        study: Study,
        folder: Path,
        train_config: Path,
        methods: Mapping[str, Options],
        patients: Mapping[str, Patients],
        runs: list[Run],
    ) -> None:
        self.study = study
        self.folder = folder
        self.train_config = train_config
        self.methods = methods
        self.patients = patients
        self.runs = runs
        self._records: dict[Run, Record] = {}

    def folder_of(self, run: Run) -> Path:
        """Where a run's files lie."""
        folder = self.folder / "runs" / slug(run.dataset) / slug(run.method)
        if run.learning_rate is None:
            return folder / f"seed_{run.seed}"
        return folder / f"learning_rate_{run.learning_rate:g}_seed_{run.seed}"

    def record(self, run: Run) -> Record | None:
        """What a run reached; None where it is not done, or not at the learning rate that is chosen now."""
        record = self._records.get(run) or read_record(self.folder_of(run))
        if record is None or not self._has_chosen_rate(run, record):
            return None
        self._records[run] = record
        return record

    def _has_chosen_rate(self, run: Run, record: Record) -> bool:
        if not self.waits_for(run):
            return True
        try:
            rate = self.chosen_rate(run.dataset, run.method)
        except ValueError:  # there is none to choose
            return False
        return rate is not None and record.settings.get("learning_rate") == rate

    def records(self, dataset: str, method: str) -> list[Record]:
        """What the final runs of a method on a data set reached, of those that are done, by seed."""
        runs = [run for run in self.runs if (run.dataset, run.method, run.learning_rate) == (dataset, method, None)]
        return [record for run in runs if (record := self.record(run)) is not None]

    def has(self, dataset: str, method: str) -> bool:
        """Whether a method is run on a data set."""
        return any((run.dataset, run.method) == (dataset, method) for run in self.runs)

    def choice_runs(self, dataset: str, method: str) -> list[Run]:
        """The runs that choose the learning rate of a method on a data set."""
        return [
            run for run in self.runs if run.learning_rate is not None and (run.dataset, run.method) == (dataset, method)
        ]

    def waits_for(self, run: Run) -> list[Run]:
        """The runs that choose a final run's learning rate."""
        return [] if run.learning_rate is not None else self.choice_runs(run.dataset, run.method)

    def chosen_rate(self, dataset: str, method: str) -> float | None:
        """The rate with the best mean DSC over the sweep's seeds, the lower one of two that are equal.

        None where there is no sweep, or a run of it is not done.

        Raises:
            ValueError: training diverged at every rate.
        """
        by_rate: dict[float, list[float | None]] = {}
        for run in self.choice_runs(dataset, method):
            record = self.record(run)
            if record is None or run.learning_rate is None:
                return None
            by_rate.setdefault(run.learning_rate, []).append(record.dice())
        if not by_rate:
            return None
        means = {rate: fmean(dice) for rate, found in by_rate.items() if len(dice := _numbers(found)) == len(found)}
        if not means:
            raise ValueError(
                f"{dataset} · {method}: training diverged at every learning rate, the lowest was {min(by_rate):g}; add "
                "lower ones."
            )
        return max(sorted(means), key=means.__getitem__)

    def settings(self, run: Run) -> Options:
        """What makes a run this one and no other: its options, seed and learning rate."""
        of_dataset = run_options(self.study.datasets[run.dataset])
        options = merge_options(self.study.options, of_dataset, self.methods[run.method], {"seed": run.seed})
        rate = run.learning_rate or self.chosen_rate(run.dataset, run.method)
        return options if rate is None else options | {"learning_rate": rate}

    def options(self, run: Run) -> Options:
        """All options that the bundle is given for a run."""
        patients = self.patients[run.dataset]
        return self.settings(run) | {
            "bundle_root": str(self.train_config.parent.parent),
            "split": str(patients.test if run.learning_rate is None else patients.choice),
            "output_dir": str(self.folder_of(run)),
            "feature_cache_dir": str(self.folder / "features"),
            # once, after the last epoch: no epoch is chosen on the patients that are reported
            "val_interval": "$@epochs",
            "val_at_start": False,
            # goes on where there is a checkpoint
            "resume": True,
        }

    def check_done(self) -> None:
        """Refuse to put runs of another study beside those of this one.

        Raises:
            ValueError: a run was done with other options, or with other weights than the runs before it; names it, and
                what differs.
        """
        self.check_weights()
        refused = {run: different for run in self.runs if (different := self._different_options(run))}
        if refused:
            run, different = next(iter(refused.items()))
            others = f", and so were {len(refused) - 1} others" if len(refused) > 1 else ""
            raise ValueError(
                f"{self.folder_of(run)}: {run} was done with other options: {'; '.join(different)}{others}. Put them "
                "back, name another output folder, or delete the folders of these runs to do them again."
            )

    def _different_options(self, run: Run) -> list[str]:
        """In what a run that is done differs from what is asked for now."""
        record = self.record(run)
        if record is None:
            return []
        wanted = _as_json(self.settings(run))
        return [
            f"{name} was {record.settings.get(name)!r} and is {wanted.get(name)!r}"
            for name in sorted({*wanted, *record.settings})
            if record.settings.get(name) != wanted.get(name)
        ]

    def check_weights(self) -> None:
        """Refuse runs of one SAM with different weights.

        Raises:
            ValueError: there are such; names two of them.
        """
        self._weights()

    def check_installed_weights(self) -> None:
        """Refuse to go on with other weights than those of the runs that are done: a package may bring new ones.

        Raises:
            OSError: a checkpoint cannot be read.
            ValueError: there are other weights now; names a run that was done with those before.
        """
        if all(self.record(run) is not None for run in self.runs):
            return
        parser = ConfigParser()
        for sam, (weights, run) in self._weights().items():
            parser.read_config(self.train_config)
            parser.update({name: value for name, value in zip(_OF_SAM, sam, strict=True) if value is not None})
            now = base_weights_sha256(parser.get_parsed_content("sam"))
            if now != weights:
                raise ValueError(
                    f"{self.folder_of(run)}: {run} was done with other weights of the SAM ({weights[:12]}) than those "
                    f"that are there now ({now[:12]}), and what is still to do could not be compared with it. Put "
                    "those back, or name another output folder."
                )

    def _weights(self) -> dict[tuple[Any, ...], tuple[str, Run]]:
        """The values of the options that say which SAM -> the digest of its weights, and the first run with it."""
        of_first: dict[tuple[Any, ...], tuple[str, Run]] = {}
        for run in self.runs:
            record = self.record(run)
            if record is None or not record.base_sha256:
                continue
            sam = tuple(record.settings.get(name) for name in _OF_SAM)
            weights, first = of_first.setdefault(sam, (record.base_sha256, run))
            if record.base_sha256 != weights:
                raise ValueError(
                    f"{self.folder_of(run)}: {run} was done with other weights of the SAM ({record.base_sha256[:12]}) "
                    f"than {first} ({weights[:12]}), and cannot be compared with it. Delete the runs with one of the "
                    "two, or name another output folder."
                )
        return of_first


def make_plan(study: Study, folder: Path, train_config: Path) -> Plan:
    """All runs of a study; divides the patients of its data sets.

    Raises:
        OSError, ValueError: a method or data set cannot be used, or the folder holds runs of another study.
    """
    methods, varied = all_methods(study)
    check_methods(study, methods, train_config)
    patients = {
        name: divide_patients(study.options | options, folder / "splits" / slug(name), study.learning_rates is not None)
        for name, options in study.datasets.items()
    }
    where = {name: set(study.datasets_of.get(name, study.datasets)) for name in study.methods}
    for name, datasets in varied:
        where.setdefault(name, set()).update(datasets)
    runs = []
    for method, options in methods.items():
        for dataset in study.datasets:
            if dataset in where[method]:
                runs += _runs_of(study, dataset, method, options["method"] != NOT_TRAINED)
    plan = Plan(study, folder, train_config, methods, patients, runs)
    plan.check_done()
    return plan


def base_of(study: Study, methods: Mapping[str, Options], name: str) -> str | None:
    """The method that is as this one, but without COBOT; None where it has none, or is without COBOT itself."""
    options = merge_options(study.options, methods[name])
    return _find(study, methods, _without_cobot(options)) if has_cobot(options) else None


def ablation_rows(study: Study, methods: Mapping[str, Options]) -> dict[str, tuple[tuple[str, ...], list[AblationRow]]]:
    """The paper's Tables 1 to 3: title -> (columns, rows)."""
    assert study.ablation is not None
    of = study.ablation.of
    named = {parts: _found(study, methods, options) for parts, options in _ablated(study).items()}
    full, base = named["full"], named["base"]
    yes, no = "yes", ""
    parts = [
        AblationRow(base, (no, no, no)),
        AblationRow(named["coefficients"], (yes, no, no)),
        AblationRow(named["hypercomplex"], (no, no, yes)),
        AblationRow(named["coefficients, hypercomplex"], (yes, no, yes)),
        AblationRow(named["coefficients, relation"], (yes, yes, no)),
        AblationRow(full, (yes, yes, yes)),
    ]
    return {
        f"Parts of COBOT: {of} (the paper's Table 1)": (("coefficients", "relation", "hyper-complex"), parts),
        "Relation matrix (Table 2)": (
            ("relation",),
            [AblationRow(named["fixed"], ("fixed, random",)), AblationRow(full, ("learnable",))],
        ),
        "Map of the bottleneck (Table 3)": (
            ("map",),
            [AblationRow(named["linear"], ("linear",)), AblationRow(full, ("hyper-complex",))],
        ),
    }


def method_of_width(study: Study, methods: Mapping[str, Options], name: str, width: int) -> str:
    """The method that is as the named one with a bottleneck of this width."""
    return _found(study, methods, _with_width(study, name, width))


def all_methods(study: Study) -> tuple[dict[str, Options], list[tuple[str, tuple[str, ...]]]]:
    """The methods with those that are varied, and on which data sets the latter are asked for.

    Raises:
        ValueError: a method of the study has the name of one that is varied.
    """
    methods = dict(study.methods)
    varied = []
    for title, options, datasets in _varied(study):
        name = _find(study, methods, options)
        if name is None:
            if slug(title).lower() in {slug(present).lower() for present in methods}:
                raise ValueError(f"{study.title}: methods: {title}: what is varied is named so; choose another name.")
            methods[title] = options
        varied.append((name or title, datasets))
    return methods, varied


def check_methods(study: Study, methods: Mapping[str, Options], train_config: Path) -> None:
    """Put every method into a SAM without weights, as the bundle's ``train.json`` does it with one that has them.

    Raises:
        ValueError: one of them cannot be; names it, and says why.
    """
    tried = []
    parser = ConfigParser()  # one: it looks through all of MONAI when it is used first
    for dataset in study.datasets.values():
        for name, options in methods.items():
            merged = merge_options(study.options, run_options(dataset), options)
            given = {option: merged[option] for option in _OF_ADAPTERS if option in merged}
            if given in tried:
                continue
            tried.append(given)
            parser.read_config(train_config)
            parser.update({**given, "cases": SimpleNamespace(labels=("a label",)), "sam": _SAM_WITHOUT_WEIGHTS})
            try:
                parser.get_parsed_content("adapter")
            except Exception as error:
                raise ValueError(f"{study.title}: methods: {name}: {describe_cause(error)}") from error


_OF_ADAPTERS = (
    *("sam_variant", "image_size", "method", "method_options", "orchestrate", "rank", "bottleneck", "blocks"),
    *("decoder", "head"),
)
"""The options of the bundle that decide what is put into SAM."""

_SAM_WITHOUT_WEIGHTS = {
    "_target_": "monai_cobot.networks.build_sam_without_weights",
    "variant": "@sam_variant",
    "image_size": "@image_size",
}


def _runs_of(study: Study, dataset: str, method: str, trained: bool) -> list[Run]:
    """The runs of a method on a data set."""
    runs = [Run(dataset, method, seed) for seed in (study.seeds if trained else study.seeds[:1])]
    if not trained or study.learning_rates is None:
        return runs
    rates = study.learning_rates
    return [Run(dataset, method, seed, rate) for rate in rates.rates for seed in rates.seeds] + runs


def _varied(study: Study) -> Iterator[tuple[str, Options, tuple[str, ...]]]:
    if study.ablation is not None:
        for parts, options in _ablated(study).items():
            yield f"{study.ablation.of}, {parts}", options, study.ablation.datasets
    if study.widths is not None:
        for name in study.widths.of:
            for width in study.widths.values:
                yield f"{name}, width {width}", _with_width(study, name, width), study.widths.datasets


def _ablated(study: Study) -> dict[str, Options]:
    assert study.ablation is not None
    full = study.methods[study.ablation.of]

    def with_cobot(**parts: Any) -> Options:
        return merge_options(full, {"method_options": parts})

    return {
        "base": _without_cobot(full),
        "coefficients": with_cobot(relation="none", hypercomplex="none"),
        "hypercomplex": with_cobot(coefficients=False),
        "coefficients, hypercomplex": with_cobot(relation="none"),
        "coefficients, relation": with_cobot(hypercomplex="none"),
        "fixed": with_cobot(relation="fixed"),
        "linear": with_cobot(hypercomplex="linear"),
        "full": full,
    }


def _without_cobot(options: Options) -> Options:
    base = {**options, "orchestrate": False}
    base.pop("orchestration_factor", None)
    if "method_options" in base:
        left = {name: value for name, value in base["method_options"].items() if name not in ORCHESTRATION_DEFAULTS}
        base["method_options"] = left
        if not left:
            del base["method_options"]
    return base


def _with_width(study: Study, name: str, width: int) -> Options:
    options = study.methods[name]
    option = width_option(options["method"])
    assert option is not None
    return options | {option: width}


def _find(study: Study, methods: Mapping[str, Options], options: Options) -> str | None:
    """The method whose runs are the same, however its options are written."""
    wanted = _complete(study, options)
    return next((name for name, present in methods.items() if _complete(study, present) == wanted), None)


def _found(study: Study, methods: Mapping[str, Options], options: Options) -> str:
    name = _find(study, methods, options)
    assert name is not None
    return name


def _complete(study: Study, options: Options) -> Options:
    """The options with those of every run, with what decides COBOT and with the method's own width."""
    options = merge_options(study.options, options)
    options = options | {"orchestrate": True} if has_cobot(options) else _without_cobot(options)
    width = width_option(options["method"])
    if width is not None and options.get(width) is None:
        options[width] = find_method(options["method"])().options()[width]
    return options


def _numbers(values: list[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _as_json(options: Options) -> Options:
    """As they are once they were written and read again: tuples are lists, and so on."""
    plain: Options = json.loads(json.dumps(options, default=str))
    return plain


def write_orders(plan: Plan, run: Run) -> Path:
    """Write what a run is to do into its folder, for the process that does it.

    What was done there at another learning rate, before the study had more rates or seeds to choose from, goes.
    """
    folder, settings = plan.folder_of(run), plan.settings(run)
    folder.mkdir(parents=True, exist_ok=True)
    with claimed(folder, patience=1) as free:
        if free and any(rate != settings.get("learning_rate") for rate in _rates_of(folder)):
            clear_folder(folder)
    orders = {
        "train_config": str(plan.train_config),
        "choice": run.learning_rate is not None,
        "settings": settings,
        "options": plan.options(run),
    }
    return write_atomically(folder / ORDERS_FILE, (json.dumps(orders, indent=1, default=str) + "\n").encode())


def _rates_of(folder: Path) -> list[Any]:
    """The learning rates of what was ordered and of what was done in a folder."""
    record, orders = read_record(folder), folder / ORDERS_FILE
    found = [read_json(orders)["settings"]] if orders.exists() else []
    found += [record.settings] if record is not None else []
    return [settings.get("learning_rate") for settings in found]
