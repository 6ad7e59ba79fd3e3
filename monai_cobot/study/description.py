"""A study as its file describes it: methods x data sets x seeds, and what is varied beside them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from monai_cobot.files import read_json
from monai_cobot.options import check_known_options
from monai_cobot.peft import is_orchestrated, width_option
from monai_cobot.peft.method import find_method

__all__ = [
    "Ablation",
    "LearningRates",
    "Options",
    "Study",
    "Widths",
    "has_cobot",
    "merge_options",
    "read_study",
    "slug",
]

Options = dict[str, Any]
"""Options of the bundle's ``train.json`` by name."""

SET_BY_THE_STUDY = {
    "bundle_root": "the bundle is named by --bundle",
    "feature_cache_dir": "all runs share one",
    "output_dir": "every run has its own below the study's",
    "patience": "all runs have the same number of epochs",
    "resume": "a run that was interrupted goes on by itself",
    "seed": "it stands under seeds",
    "split": "it divides the patients itself",
    "val_at_start": "a run is measured once, after its last epoch",
    "val_interval": "a run is measured once, after its last epoch",
}
"""Options that a study file cannot have, and why."""

OF_DATASETS = ("max_cases", "training_cases", "validation_fraction", "split_seed")
"""What only a data set can say: which patients there are, and how they are divided."""

OF_THE_STUDY = ("training_cases", "split_seed")
"""Those of them that the bundle does not have."""

OF_METHODS = ("method", "method_options", "orchestrate", "rank", "bottleneck")
"""What a data set cannot say: a method is the same on every one."""

VARIED = ("coefficients", "relation", "hypercomplex")
"""The options of COBOT that an ablation varies."""


@dataclass(frozen=True)
class LearningRates:
    """The sweep: every method is trained at every rate, and takes the one that is best on patients that are no test.

    Attributes:
        rates: the rates, rising.
        seeds: one run a rate and seed.
    """

    rates: tuple[float, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Ablation:
    """The paper's Tables 1 to 3, for one of the methods.

    Attributes:
        of: a method with COBOT.
        datasets: on which data sets.
    """

    of: str
    datasets: tuple[str, ...]


@dataclass(frozen=True)
class Widths:
    """The paper's Figure 5: the DSC against the width of the bottleneck.

    Attributes:
        of: methods that have a bottleneck.
        values: the widths, rising.
        datasets: on which data sets.
    """

    of: tuple[str, ...]
    values: tuple[int, ...]
    datasets: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """What is compared.

    Attributes:
        title: of tables and pictures.
        datasets: name in the tables -> options of the runs on it.
        methods: name in the tables -> options of its runs.
        seeds: one run a method, data set and seed.
        options: of every run; those of a data set and of a method come over them.
        datasets_of: name of a method -> the data sets that it is run on; one that is not here is run on all.
        learning_rates: the sweep, or None where the options say the learning rate.
        ablation, widths: what is varied beside, or None.
        compare: (base, method), by name: what is tested beside COBOT against its base.
    """

    title: str
    datasets: Mapping[str, Options]
    methods: Mapping[str, Options]
    seeds: tuple[int, ...]
    options: Options = field(default_factory=dict)
    datasets_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    learning_rates: LearningRates | None = None
    ablation: Ablation | None = None
    widths: Widths | None = None
    compare: tuple[tuple[str, str], ...] = ()


def read_study(path: str | Path, train_config: str | Path) -> Study:
    """Read a study file, and check all of it that can be checked before anything runs.

    Args:
        path: a YAML or JSON file; docs/compare.md describes it.
        train_config: the bundle's ``train.json``, which says what options there are.

    Raises:
        OSError: a file cannot be read.
        ValueError: the file is not what was expected; says where and what to do.
    """
    path = Path(path)
    top = _Section(_load(path), str(path))
    top.check_names(Study.__dataclass_fields__ | {"learning_rate": None}, without=("learning_rates", "datasets_of"))
    datasets = top.named_options("datasets")
    methods = top.named_options("methods")
    limited = {name: top.section("methods").section(name) for name in methods if "datasets" in methods[name]}
    datasets_of = {name: section.names("datasets", datasets) for name, section in limited.items()}
    methods = {name: _without(options, ("datasets",)) for name, options in methods.items()}
    study = Study(
        title=top.text("title", path.stem),
        datasets=datasets,
        methods=methods,
        seeds=top.numbers("seeds", int, (0,)),
        options=top.section("options").values,
        datasets_of=datasets_of,
        learning_rates=_learning_rates(top),
        ablation=_ablation(top, datasets, methods),
        widths=_widths(top, datasets, methods),
        compare=top.pairs("compare", methods),
    )
    _check_options(study, path, Path(train_config))
    return study


def merge_options(*layers: Options) -> Options:
    """Options of which later ones come over earlier ones; of ``method_options``, each by its name."""
    merged: Options = {}
    for layer in layers:
        of_method = merged.get("method_options", {}) | layer.get("method_options", {})
        merged = merged | layer | ({"method_options": of_method} if of_method else {})
    return merged


def has_cobot(options: Options) -> bool:
    """Whether a method is with COBOT, as the bundle's ``train.json`` has it."""
    return is_orchestrated(options["method"], options.get("orchestrate"))


def slug(name: str) -> str:
    """A name as part of a path: letters, digits, dots, plus and minus, with _ in place of all else."""
    return re.sub(r"[^\w.+-]+", "_", name).strip("_")


class _Numbers(yaml.SafeLoader):
    """YAML as 1.2 has it: 1e-4 is a number, where PyYAML's 1.1 wants 1.0e-4 and reads text."""


_Numbers.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _load(path: Path) -> Any:
    if path.suffix.lower() == ".json":
        return read_json(path)
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise ValueError(f"{path}: a study is a .yaml or .json file.")
    try:
        return yaml.load(path.read_text(encoding="utf-8-sig"), _Numbers)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: this is not valid YAML ({error}).") from error


@dataclass(frozen=True)
class _Section:
    """A part of the file, and where it stands."""

    values: Any
    place: str

    def __post_init__(self) -> None:
        if not isinstance(self.values, dict) or not all(isinstance(name, str) for name in self.values):
            raise ValueError(f"{self.place}: names with values are expected, not {self.values!r}.")

    def check_names(self, known: Iterable[str], without: Iterable[str] = ()) -> None:
        names = sorted(set(known) - set(without))
        for name in self.values:
            if name not in names:
                similar = difflib.get_close_matches(name, names, n=1)
                hint = f"did you mean {similar[0]}?" if similar else f"there are {', '.join(names)}."
                raise ValueError(f"{self.place}: there is no entry {name!r} here; {hint}")

    def section(self, name: str) -> _Section:
        """A part of the part; an empty one where it is missing."""
        return _Section(self.values.get(name) or {}, f"{self.place}: {name}")

    def named_options(self, name: str) -> dict[str, Options]:
        section = self.section(name)
        if not section.values:
            raise ValueError(f"{self.place}: there is nothing under {name}; at least one entry is expected.")
        taken: dict[str, str] = {}
        for entry in section.values:
            if not slug(entry) or slug(entry).lower() in taken:
                other = taken.get(slug(entry).lower())
                reason = f"too like {other!r}" if other else "without a letter"
                raise ValueError(f"{section.place}: {entry!r} is {reason}: folders are named so. Choose another name.")
            taken[slug(entry).lower()] = entry
        return {entry: section.section(entry).values for entry in section.values}

    def text(self, name: str, default: str) -> str:
        value = self.values.get(name, default)
        if not isinstance(value, str) or not value:
            raise ValueError(f"{self.place}: {name} is {value!r}; text is expected.")
        return value

    def numbers(self, name: str, kind: type, default: tuple | None = None) -> tuple:
        """A list of different numbers of at least 0, in rising order."""
        values = self.values.get(name, default)
        wanted = (int, float) if kind is float else int
        good = isinstance(values, (list, tuple)) and len(values) > 0
        if not good or any(isinstance(one, bool) or not isinstance(one, wanted) or one < 0 for one in values):
            numbers = "whole numbers" if kind is int else "numbers"
            raise ValueError(f"{self.place}: {name} is {values!r}; a list of {numbers} of at least 0 is expected.")
        if len(set(values)) < len(values):
            raise ValueError(f"{self.place}: {name} is {values!r}; one of them stands there twice.")
        return tuple(sorted(kind(value) for value in values))

    def names(self, name: str, known: Iterable[str], default: Iterable[str] | None = None) -> tuple[str, ...]:
        """A list of names that there are; ``default`` where none is given."""
        values = self.values.get(name, None if default is None else list(default))
        values = [values] if isinstance(values, str) else values
        if not isinstance(values, list) or not values:
            raise ValueError(f"{self.place}: {name} is {values!r}; a name or a list of names is expected.")
        for value in values:
            if value not in known:
                raise ValueError(f"{self.place}: {name}: there is no {value!r}; there are {', '.join(known)}.")
        return tuple(values)

    def pairs(self, name: str, known: Iterable[str]) -> tuple[tuple[str, str], ...]:
        """A list of pairs of different names that there are; an empty one where it is missing."""
        pairs = self.values.get(name, [])
        if not isinstance(pairs, list):
            raise ValueError(f"{self.place}: {name} is {pairs!r}; a list of pairs [base, method] is expected.")
        found = []
        for pair in pairs:
            names = _Section({name: pair}, self.place).names(name, known)
            if len(names) != 2 or names[0] == names[1]:
                raise ValueError(f"{self.place}: {name}: {pair!r} is no pair of two methods, [base, method].")
            found.append((names[0], names[1]))
        return tuple(found)


def _learning_rates(top: _Section) -> LearningRates | None:
    if "learning_rate" not in top.values:
        return None
    section = top.section("learning_rate")
    section.check_names(LearningRates.__dataclass_fields__)
    rates = section.numbers("rates", float)
    if rates[0] == 0:
        raise ValueError(f"{section.place}: rates: a learning rate is above 0.")
    return LearningRates(rates, section.numbers("seeds", int, (0,)))


def _ablation(top: _Section, datasets: Mapping[str, Options], methods: Mapping[str, Options]) -> Ablation | None:
    if "ablation" not in top.values:
        return None
    section = top.section("ablation")
    section.check_names(Ablation.__dataclass_fields__)
    (of, *others) = section.names("of", methods)
    if others:
        raise ValueError(f"{section.place}: of: one method is expected.")
    return Ablation(of, section.names("datasets", datasets, datasets))


def _widths(top: _Section, datasets: Mapping[str, Options], methods: Mapping[str, Options]) -> Widths | None:
    if "widths" not in top.values:
        return None
    section = top.section("widths")
    section.check_names(Widths.__dataclass_fields__)
    values = section.numbers("values", int)
    if values[0] < 1:
        raise ValueError(f"{section.place}: values: a bottleneck is at least 1 wide.")
    return Widths(section.names("of", methods), values, section.names("datasets", datasets, datasets))


def _check_options(study: Study, path: Path, train_config: Path) -> None:
    """The names and values of all options."""
    content = list(read_json(train_config))
    known = content[: content.index("cases")] if "cases" in content else content
    sections = {"options": study.options}
    sections |= {f"datasets: {name}": options for name, options in study.datasets.items()}
    sections |= {f"methods: {name}": options for name, options in study.methods.items()}
    for place, options in sections.items():
        for name in options:
            if name in SET_BY_THE_STUDY:
                raise ValueError(f"{path}: {place}: {name} is set by the study: {SET_BY_THE_STUDY[name]}.")
            if name in OF_METHODS and place.startswith("datasets"):
                raise ValueError(f"{path}: {place}: {name} belongs to a method, which is the same on every data set.")
            if name in OF_DATASETS and not place.startswith("datasets"):
                raise ValueError(
                    f"{path}: {place}: {name} belongs to a data set: which patients there are is the same for all."
                )
            if name == "learning_rate" and study.learning_rates is not None:
                raise ValueError(f"{path}: {place}: learning_rate is chosen by the sweep; leave one of the two out.")
        _Section(_without(options, OF_THE_STUDY), f"{path}: {place}").check_names(known, SET_BY_THE_STUDY)
        try:
            check_known_options(options)
            if "method" in options:
                find_method(options["method"])
        except ValueError as error:
            raise ValueError(f"{path}: {place}: {error}") from error
    for name, options in study.methods.items():
        if "method" not in options:
            raise ValueError(f"{path}: methods: {name}: the option method is missing, such as method: lora.")
    for name, options in study.datasets.items():
        if "dataset" not in options:
            raise ValueError(f"{path}: datasets: {name}: the option dataset is missing, such as dataset: phantom.")
    _check_varied(study, path)


def _check_varied(study: Study, path: Path) -> None:
    """Whether the methods that are varied have what is varied."""
    methods = {name: merge_options(study.options, options) for name, options in study.methods.items()}
    if study.ablation is not None:
        of = study.ablation.of
        if not has_cobot(methods[of]):
            raise ValueError(f"{path}: ablation: of: {of!r} is without COBOT; name a method with orchestrate: true.")
        varied = [name for name in VARIED if name in methods[of].get("method_options", {})]
        if varied:
            raise ValueError(
                f"{path}: ablation: of: {of!r} says {', '.join(varied)} itself, which the ablation varies; name a "
                "method with the whole of COBOT."
            )
    for name in study.widths.of if study.widths is not None else ():
        option = width_option(methods[name]["method"])
        if option is None:
            raise ValueError(f"{path}: widths: of: {name!r} has no bottleneck.")
        if option in methods[name].get("method_options", {}):
            raise ValueError(
                f"{path}: widths: of: {name!r} has {option} among its method_options, which come over all others, so "
                f"that its width cannot be varied; write {option} beside method."
            )


def _without(options: Options, names: Iterable[str]) -> Options:
    return {name: value for name, value in options.items() if name not in names}
