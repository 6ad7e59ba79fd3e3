"""The options of a run, checked before anything is read: a slip of the pen costs a second, not a training."""

from __future__ import annotations

import ast
import difflib
import inspect
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle import run as monai_run

__all__ = ["check_head", "check_known_options", "check_label", "check_option_names", "check_options"]

Rule = Callable[[Any], str | None]
"""Says what is expected instead of a value, or None where it is right."""


def check_options(**options: Any) -> None:
    """Checks the type and range of options that are given on a command line.

    Args:
        options: name -> value, of the names in the documentation of the bundle.

    Raises:
        ValueError: names every option with a value that cannot be used, and says what is expected.
    """
    wrong = [(name, value, _RULES[name](value)) for name, value in options.items()]
    lines = [f"{name} is {value!r}; {expected}." for name, value, expected in wrong if expected is not None]
    if lines:
        raise ValueError("\n".join(lines))


def check_head(head: str, classes: int | None, prompts: Any = None) -> None:
    """Whether the head that is asked for is that of the adapter.

    Args:
        head: "boxes" or "classes".
        classes: of the adapter; None for one with boxes, or none.
        prompts: the option of that name.

    Raises:
        ValueError: it is not, or there are prompts for a network that takes none.
    """
    if head == "classes" and classes is None:
        raise ValueError(
            "head is 'classes', but SAM without an adapter that was trained for classes takes boxes; leave head out, "
            "or name such an adapter as adapter_dir."
        )
    if head == "boxes" and classes is not None:
        raise ValueError("head is 'boxes', but the adapter was trained for classes; leave head out.")
    if head == "classes" and prompts is not None:
        raise ValueError("The adapter segments classes without prompts; leave prompts out, or take one for boxes.")


def check_label(label: Any, own_images: bool) -> None:
    """Whether labels can be chosen.

    Args:
        label: the option of that name, None where it was not given.
        own_images: whether the images are not those of a data set.

    Raises:
        ValueError: labels are chosen of images whose masks or tables say which there are.
    """
    if own_images and label is not None:
        raise ValueError(
            f"label is {label!r}, but with input or prompts there is a mask for every label of the masks or the table; "
            "leave label out."
        )


def check_known_options(options: Mapping[str, Any]) -> None:
    """`check_options` for those of the options whose values it knows, but for expressions of the configuration.

    Args:
        options: name -> value, as a file has them that will be given to the bundle.

    Raises:
        ValueError: as in `check_options`.
    """
    plain = {name: value for name, value in options.items() if not (isinstance(value, str) and value[:1] in ("$", "@"))}
    check_options(**{name: value for name, value in plain.items() if name in _RULES})


def check_option_names(arguments: Sequence[str]) -> None:
    """Refuses options that the configuration files of ``python -m monai.bundle run`` do not have.

    MONAI adds a name it does not know to the configuration, where nothing reads it: a misspelt option would be ignored.

    Args:
        arguments: the command line, as in ``sys.argv[1:]``; of another command than ``run`` nothing is checked.

    Raises:
        ValueError: names the first such option and the one that is most like it.
    """
    if list(arguments[:1]) != ["run"]:
        return
    given = dict(_given(arguments))
    if "args_file" in given:
        given = {**ConfigParser.load_config_file(given["args_file"]), **given}
    files = _files(given.get("config_file", []))
    options = set(ConfigParser.load_config_files(files))
    known = options.union(*(inspect.signature(item).parameters for item in (monai_run, ConfigWorkflow)))
    if "tracking" in given:
        known |= {"tracking_uri", "experiment_name", "run_name", "save_execute_config"}
    for name in given:
        top = re.split("#|::", name)[0]
        # Fire reads --noresume as --resume False
        if top not in known and top.removeprefix("no") not in known and top != "_meta_":
            similar = difflib.get_close_matches(top, sorted(options), n=1)
            hint = f"did you mean --{similar[0]}?" if similar else "the options stand at the top of that file."
            raise ValueError(f"there is no option --{name} in {' and '.join(files)}; {hint}")


def _given(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Names and values of a command line as Fire reads them: --name value, --name=value, - for _ in names."""
    for position, argument in enumerate(arguments):
        if argument == "--":  # what follows is for Fire itself
            return
        found = re.fullmatch(r"--?([A-Za-z_][^=]*)(?:=(.*))?", argument, flags=re.DOTALL)
        if found:
            following = arguments[position + 1] if position + 1 < len(arguments) else ""
            yield found[1].replace("-", "_"), following if found[2] is None else found[2]


def _files(value: str | list[str]) -> list[str]:
    """The files of ``config_file``: one, or a list as Python writes it."""
    if isinstance(value, str):
        value = ast.literal_eval(value) if value.startswith("[") else [value]
    return list(value)


def _whole(least: int) -> Rule:
    def rule(value: Any) -> str | None:
        if isinstance(value, int) and not isinstance(value, bool) and value >= least:
            return None
        return f"a whole number of at least {least} is expected"

    return rule


def _not_negative(value: Any) -> str | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf:
        return None
    return "a number of at least 0 is expected"


def _share(value: Any) -> str | None:
    if isinstance(value, (int, float)) and 0 < value < 1:
        return None
    return "a number between 0 and 1 is expected"


def _flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else "True or False is expected"


def _text(value: Any) -> str | None:
    if isinstance(value, (str, os.PathLike)) and str(value):
        return None
    return "text is expected; a name that is a number is written as ./2024, or in quotes as \"'2024'\""


def _labels(value: Any) -> str | None:
    wanted = value if isinstance(value, (list, tuple)) else [value]
    if all(isinstance(label, (str, int)) and not isinstance(label, bool) for label in wanted):
        return None
    return "a name or value of a label is expected, a list of several, or all"


def _named(value: Any) -> str | None:
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return None
    return "options by name are expected, such as \"{'prompts': 50}\""


def _head(value: Any) -> str | None:
    return None if value in ("boxes", "classes") else "boxes or classes is expected"


def _device(value: Any) -> str | None:
    try:
        torch.empty(0, device=value)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        return f"this device cannot be used here ({reason}). Choose cpu, or install a PyTorch that supports the device"
    return None


def _folder_to_write(value: Any) -> str | None:
    wrong = _text(value)
    if wrong is not None:
        return wrong
    # nothing is made here: not every run that has the option writes there
    existing = next(folder for folder in (Path(value).absolute(), *Path(value).absolute().parents) if folder.exists())
    if not existing.is_dir():
        return f"{existing} is a file. Choose another folder"
    if not os.access(existing, os.W_OK | os.X_OK):
        return f"nothing can be written in {existing}. Choose another folder, or ask for the right to write there"
    return None


def _or_none(rule: Rule) -> Rule:
    def with_none(value: Any) -> str | None:
        expected = None if value is None else rule(value)
        return expected if expected is None else f"{expected}, or None"

    return with_none


_RULES: dict[str, Rule] = {
    **dict.fromkeys(("batch_size", "epochs", "min_foreground", "val_interval"), _whole(1)),
    **dict.fromkeys(
        ("blocks", "bottleneck", "image_size", "patience", "rank", "slices_per_epoch", "training_cases"),
        _or_none(_whole(1)),
    ),
    **dict.fromkeys(("num_workers", "seed"), _whole(0)),
    **dict.fromkeys(
        (
            "decoder_factor",
            "feature_cache_gb",
            "learning_rate",
            "orchestration_factor",
            "slice_memory_gb",
            "weight_decay",
        ),
        _not_negative,
    ),
    "max_cases": _or_none(_whole(2)),
    "max_jitter": _or_none(_whole(0)),
    "validation_fraction": _share,
    **dict.fromkeys(("components", "gradient_checkpointing", "resume", "val_at_start"), _flag),
    "orchestrate": _or_none(_flag),
    **dict.fromkeys(
        (
            "axis",
            "backend",
            "dataset",
            "dataset_dir",
            "decoder",
            "feature_cache_type",
            "method",
            "network_file",
            "part",
            "precision",
            "sam_variant",
        ),
        _text,
    ),
    **dict.fromkeys(("adapter_dir", "input", "preset", "prompts", "sam_checkpoint", "split"), _or_none(_text)),
    "label": _labels,
    "method_options": _named,
    "device": _device,
    "head": _head,
    **dict.fromkeys(("feature_cache_dir", "output_dir"), _folder_to_write),
    "slice_cache_dir": _or_none(_folder_to_write),
}
