"""The data pipeline's rate over what a training may ask of it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.data_pipeline import SLICE_COUNTS, measure_memory, measure_throughput
from benchmarks.timing import Row, Setting

ASKED = {256: 100.0, 1024: 30.0}
"""Side of the prepared image in pixels -> slices a second of one core."""


def data_pipeline(setting: Setting) -> list[Row]:
    """Prepared slices a second of one core over the rate that is asked."""
    shown = setting.progress.add_task("data pipeline", total=None)
    with tempfile.TemporaryDirectory() as folder:
        measured = measure_throughput(Path(folder), tuple(ASKED), slices=32, rounds=setting.repeats)
    setting.progress.remove_task(shown)
    return [
        Row(
            f"data pipeline, {source.source} at {source.size}",
            "prepared",
            "asked",
            tuple((rate, ASKED[source.size]) for rate in source.rates),
            "slices/s",
            at_least=1.0,
        )
        for source in measured
    ]


def memory_of_slices(setting: Setting) -> list[Row]:
    """The memory that a data set of 100,000 slices takes over that of 10,000, each in a process of its own.

    Those too exceed what may be in memory, so that only what is kept of every slice beyond its pixels can grow.
    """
    *_, few, many = SLICE_COUNTS
    shown = setting.progress.add_task("memory of the data pipeline", total=2)
    megabytes = []
    with tempfile.TemporaryDirectory() as folder:
        for count in (many, few):
            megabytes.append(measure_memory(count, Path(folder)))
            setting.progress.advance(shown)
    setting.progress.remove_task(shown)
    sides = (f"{many:,} slices", f"{few:,} slices")
    return [Row("memory of the data pipeline", *sides, ((megabytes[0], megabytes[1]),), "MB", at_most=1.1)]
