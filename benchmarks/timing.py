"""Timing side by side: what is compared runs in turns, so that whatever else the machine does hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from rich.progress import Progress

from monai_cobot.networks.precision import HeldWeights, autocast_to

LEAST_REPEATS = 5

Work = Callable[[], object]


@dataclass(frozen=True)
class Setting:
    """What and how is measured.

    Attributes:
        variant: of SAM, a name in ``monai_cobot.networks.VARIANTS``.
        image_size: length of a side of SAM's frame, in pixels.
        device: where the networks are.
        precision: ``"float32"`` or ``"bfloat16"``, of ours and of every rival that is told it. segment_anything itself
            knows no other than float32, and stands in both.
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

    def inference(self, work: Work, context: Callable[[], AbstractContextManager[object]] | None = None) -> Work:
        """Work without gradients, in the precision; by ``autocast`` where there is no other ``context`` for it."""

        def run() -> None:
            with torch.inference_mode(), (context or self.autocast)():
                work()

        return run

    def as_ours(self) -> Callable[[], AbstractContextManager[object]]:
        """The context in which this project computes in the precision: frozen weights are cast once."""
        return partial(autocast_to, self.dtype, self.device, HeldWeights())

    def in_both_precisions(self, name: str, work: Callable[[Setting], Work]) -> dict[str, Work]:
        """What a rival that knows float32 alone does as it is, and under autocast where that is another thing."""
        if self.precision == "float32":
            return {name: work(self)}
        plain = replace(self, precision="float32")
        return {f"{name}, float32": work(plain), f"{name}, {self.precision}": work(self)}


@dataclass(frozen=True)
class Row:
    """A ratio, one side over the other.

    Attributes:
        task: what was done.
        one: the name of the side above the line.
        other: the name of the side below it.
        values: what was measured of both, a pair a round.
        unit: of the values.
        at_least: what is asked of the ratio, None for nothing.
        at_most: as ``at_least``.
    """

    task: str
    one: str
    other: str
    values: tuple[tuple[float, float], ...]
    unit: str = "s"
    at_least: float | None = None
    at_most: float | None = None

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios."""
        return statistics.median(one / other for one, other in self.values)

    @property
    def holds(self) -> bool:
        """Whether the ratio is what is asked, as exactly as it is shown."""
        shown = float(f"{self.ratio:.3g}")
        return (self.at_least is None or shown >= self.at_least) and (self.at_most is None or shown <= self.at_most)

    def cells(self) -> list[str]:
        """Task, names, medians, the median and the quartiles of the rounds' ratios, and what is asked."""
        ones, others = zip(*self.values, strict=True)
        sides = [f"{statistics.median(side):.3g} {self.unit}" for side in (ones, others)]
        spread = "one round"
        if len(self.values) > 1:
            low, _, high = statistics.quantiles((one / other for one, other in self.values), n=4)
            spread = f"{low:.3g} to {high:.3g}"
        asked = [f"at least {self.at_least:g}"] if self.at_least is not None else []
        asked += [f"at most {self.at_most:g}"] if self.at_most is not None else []
        return [self.task, self.one, self.other, *sides, f"**{self.ratio:.3g}**", spread, ", ".join(asked)]


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


def row(
    task: str,
    seconds: Mapping[str, list[float]],
    one: str,
    other: str,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Row:
    """The row of two of the contenders."""
    values = tuple(zip(seconds[one], seconds[other], strict=True))
    return Row(task, one, other, values, at_least=at_least, at_most=at_most)


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    heads = ["task", "A", "B", "A takes", "B takes", "A over B", "quartiles", "asked"]
    lines = [heads, ["---"] * len(heads), *(each.cells() for each in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _now(setting: Setting) -> float:
    if setting.device.type == "cuda":
        torch.cuda.synchronize(setting.device)
    return time.perf_counter() if setting.clock == "wall" else time.process_time()
