"""Timing side by side: what is compared runs in turns, so that whatever else the machine does hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from rich.progress import Progress

LEAST_REPEATS = 5

Work = Callable[[], object]


@dataclass(frozen=True)
class Setting:
    """What and how is measured.

    Attributes:
        variant: of SAM, a name in ``monai_cobot.networks.VARIANTS``.
        image_size: length of a side of SAM's frame, in pixels.
        device: where the networks are.
        precision: ``"float32"`` or ``"bfloat16"``, for all that is compared.
        repeats: rounds that count, after one that fills caches.
        clock: ``"wall"``, what a user waits; ``"processor"``, the time that all threads of the process computed, which
            other programs disturb less. On a GPU, only the first means anything.
        progress: where rounds are shown.
    """

    variant: str
    image_size: int
    device: torch.device
    precision: str
    repeats: int
    clock: Literal["wall", "processor"]
    progress: Progress

    @property
    def dtype(self) -> torch.dtype:
        """The precision as torch's type."""
        return getattr(torch, self.precision)

    def autocast(self) -> torch.autocast:
        """The context in which products are computed in the precision."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.precision != "float32")


@dataclass(frozen=True)
class Row:
    """A ratio, one side over the other.

    Attributes:
        task: what was done.
        one: the name of the side above the line.
        other: the name of the side below it.
        values: what was measured of both, a pair a round.
        unit: of the values.
    """

    task: str
    one: str
    other: str
    values: tuple[tuple[float, float], ...]
    unit: str = "s"

    def cells(self) -> list[str]:
        """Task, names, medians, and the median and the quartiles of the rounds' ratios."""
        ones, others = zip(*self.values, strict=True)
        ratios = [one / other for one, other in self.values]
        low, median, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        sides = [f"{statistics.median(side):.3g} {self.unit}" for side in (ones, others)]
        return [self.task, self.one, self.other, *sides, f"**{median:.3g}**", f"{low:.3g} to {high:.3g}"]


def time_in_turns(task: str, contenders: Mapping[str, Work], setting: Setting) -> dict[str, list[float]]:
    """Run all contenders once a round and time them; every second round in the opposite order.

    Returns:
        For each contender the seconds of a round, without the first.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    shown = setting.progress.add_task(task, total=(setting.repeats + 1) * len(contenders))
    for number in range(setting.repeats + 1):
        order = list(contenders.items())
        for name, work in order if number % 2 else order[::-1]:
            setting.progress.update(shown, description=f"{task}: {name}")
            start = _now(setting)
            work()
            seconds[name].append(_now(setting) - start)
            setting.progress.advance(shown)
    setting.progress.remove_task(shown)
    return {name: values[1:] for name, values in seconds.items()}


def row(task: str, seconds: Mapping[str, list[float]], one: str, other: str) -> Row:
    """The row of two of the contenders."""
    return Row(task, one, other, tuple(zip(seconds[one], seconds[other], strict=True)))


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    heads = ["task", "A", "B", "A takes", "B takes", "A over B", "quartiles"]
    lines = [heads, ["---"] * len(heads), *(each.cells() for each in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _now(setting: Setting) -> float:
    if setting.device.type == "cuda":
        torch.cuda.synchronize(setting.device)
    return time.perf_counter() if setting.clock == "wall" else time.process_time()
