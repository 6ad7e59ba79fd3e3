"""One run of a study, in a process of its own.

The process itself holds the claim on the run, as long as it lives. If whoever started it is killed, it goes on to its
end, and no other process begins the same run meanwhile.
"""

from __future__ import annotations

import csv
import os
import signal
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NoReturn

import torch
from monai.bundle import ConfigWorkflow

from monai_cobot.errors import describe_cause, root_cause
from monai_cobot.files import read_json
from monai_cobot.networks.checkpoint import base_weights_sha256
from monai_cobot.peft.io import WEIGHTS_FILE
from monai_cobot.study.plan import NOT_TRAINED, ORDERS_FILE
from monai_cobot.study.records import Record, claimed, read_record, write_failure, write_record

__all__ = ["CLAIMED", "INTERRUPTED", "LOG_FILE", "do_run", "run_process"]

CLAIMED = 75
"""Exit code where another process is at work on the run (EX_TEMPFAIL of sysexits.h)."""

INTERRUPTED = 130
"""Exit code after Ctrl-C; what was reached is kept, and the run goes on from there."""


LOG_FILE = "log.txt"
"""What a run says is added to it."""


def run_process(folder: Path) -> NoReturn:
    """The whole of a run's process: `do_run`, with what it prints in a file of the run's folder."""
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C reaches whoever started this alone, and is passed on once
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what a script starts with "&", and inherited
    with open(folder / LOG_FILE, "a", buffering=1, encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        for descriptor in (1, 2):  # of what libraries print past Python
            os.dup2(log.fileno(), descriptor)
        sys.exit(do_run(folder))


def do_run(folder: Path) -> int:
    """Do the run that ``run.json`` in the folder describes, unless it is done.

    Returns:
        The process's exit code: 0 done, 1 failed, ``CLAIMED`` or ``INTERRUPTED``.
    """
    with claimed(folder) as free:
        if not free:
            return CLAIMED
        if read_record(folder) is not None:
            return 0
        try:
            write_record(folder, _run(read_json(folder / ORDERS_FILE)))
        except Exception as error:
            traceback.print_exc()
            write_failure(folder, describe_cause(error))
            return 1
        except KeyboardInterrupt:
            return INTERRUPTED
    return 0


def _run(orders: dict[str, Any]) -> Record:
    """What the run reached."""
    settings, options = orders["settings"], orders["options"]
    config = Path(orders["train_config"])
    if settings["method"] == NOT_TRAINED:
        return _evaluate(config.with_name("evaluate.json"), settings, options)
    workflow = _workflow(config, "train", options)
    parser = workflow.parser
    try:
        workflow.run()
    except Exception as error:
        cause = root_cause(error)
        if orders["choice"] and isinstance(cause, FloatingPointError):
            # of a rate that is tried, that is an answer and no failure
            return Record(settings, [], diverged=str(cause))
        raise
    workflow.finalize()
    history, adapter = parser.get_parsed_content("history"), parser.get_parsed_content("adapter")
    if history.best is None:
        raise ValueError("no epoch was validated; was the checkpoint in this folder written by another training?")
    counts = adapter.count_parameters()
    folder = Path(options["output_dir"])
    device = torch.device(parser.get_parsed_content("device"))
    return Record(
        settings,
        list(history.best),  # of the only validation, after the last epoch
        ellipse=_ellipse(folder / "scores.csv"),
        base_sha256=adapter.base_sha256,
        encoder_parameters=counts["encoder"],
        decoder_parameters=counts["decoder"],
        epochs=history.epochs[-1]["epoch"],
        seconds=history.seconds,
        peak_memory=_peak_memory(device),
        adapter_size=(folder / "last" / WEIGHTS_FILE).stat().st_size,
        device=_name_of(device),
    )


def _evaluate(config: Path, settings: dict[str, Any], options: dict[str, Any]) -> Record:
    """The SAM as it is, on the same slices with the same boxes."""
    shared = {name: value for name, value in options.items() if name in read_json(config)}
    workflow = _workflow(config, "infer", shared)
    workflow.run()
    workflow.finalize()
    device = torch.device(workflow.parser.get_parsed_content("device"))
    scores = list(workflow.parser.get_parsed_content("dice").scores)
    base = base_weights_sha256(workflow.parser.get_parsed_content("sam"))
    return Record(settings, scores, base_sha256=base, peak_memory=_peak_memory(device), device=_name_of(device))


def _ellipse(scores: Path) -> list[tuple[str, str, float]]:
    """What the report of a training says of the ellipse in the box."""
    with scores.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [(row["case"], row["label"], float(row["dice_ellipse"])) for row in rows if "dice_ellipse" in row]


def _workflow(config: Path, kind: str, options: dict[str, Any]) -> ConfigWorkflow:
    workflow = ConfigWorkflow(str(config), logging_file=False, workflow_type=kind, **options)
    workflow.initialize()
    return workflow


def _peak_memory(device: torch.device) -> int | None:
    """Bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type}, {os.cpu_count()} cores"
