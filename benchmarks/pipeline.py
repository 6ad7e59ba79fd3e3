"""The data pipeline's rate over what a training may ask of it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.data_pipeline import measure_throughput
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
        )
        for source in measured
    ]
