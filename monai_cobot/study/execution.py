"""Doing the runs of a study, one after the other, beside other processes that do the same."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType

from tqdm import tqdm

from monai_cobot.study.plan import Plan, Run, write_orders
from monai_cobot.study.records import Failure, is_claimed, read_failure, write_failure
from monai_cobot.study.training import CLAIMED, INTERRUPTED, LOG_FILE, run_process

__all__ = ["run_study"]

_PATIENCE = 1.0
"""Seconds between two looks at what others do."""


def run_study(plan: Plan) -> dict[Run, str]:
    """Do all runs that are not done, and say how far it is.

    Several processes may work on one folder: each takes the next run that nobody has, and all end when nothing is left.
    A run is a process of its own, which goes on from its checkpoint where it was interrupted. A run whose process is
    killed is tried once more; a run that fails is passed over, and the next call tries it again.

    Returns:
        The runs that are not done, and why.

    Raises:
        ValueError: a run was done with other weights of the SAM than those before it, or than those that are there now.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once the current run has kept what it reached.
    """
    plan.check_installed_weights()
    with _terminated_as_interrupted():
        return _Execution(plan).work()


class _Execution:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.began = time.time()
        self.done_before = self._count_done()

    def work(self) -> dict[Run, str]:
        total = len(self.plan.runs)
        with tqdm(total=total, initial=self.done_before, unit="run", disable=None) as bar:
            tqdm.write(f"{total} runs, {self.done_before} of them done")
            while True:
                failed = self._failed()
                open_runs = [
                    run
                    for run in self.plan.runs
                    if self.plan.record(run) is None
                    and run not in failed
                    and not any(awaited in failed for awaited in self.plan.waits_for(run))
                ]
                bar.update(self._count_done() - bar.n)
                if not open_runs:
                    return self._left_over(failed)
                run = next((run for run in open_runs if self._can_begin(run)), None)
                if run is None:
                    bar.set_description("waiting for other processes")
                    time.sleep(_PATIENCE)
                else:
                    self._do(run, bar)

    def _can_begin(self, run: Run) -> bool:
        waiting = any(self.plan.record(awaited) is None for awaited in self.plan.waits_for(run))
        return not waiting and not is_claimed(self.plan.folder_of(run))

    def _do(self, run: Run, bar: tqdm) -> None:
        folder = self.plan.folder_of(run)
        bar.set_description(str(run))
        began = time.monotonic()
        try:
            write_orders(self.plan, run)
            code = _train(folder, bar)
            if code < 0:  # once more, from its last epoch: what took its memory may be gone
                tqdm.write(f"{run}: {_ended(code)}; trying once more")
                code = _train(folder, bar)
        except ValueError as error:  # its learning rate could not be chosen
            write_failure(folder, str(error))
            code = 1
        if code == CLAIMED:
            return
        if code == INTERRUPTED:
            write_failure(folder, "it was interrupted; it goes on from its last epoch")
        elif code not in (0, 1):
            write_failure(folder, f"{_ended(code)}. The end of {folder / LOG_FILE} may say more")
        bar.update(self._count_done() - bar.n)
        record = self.plan.record(run)
        if record is None:
            failure = read_failure(folder)
            tqdm.write(f"failed: {run}: {failure.reason if failure else 'no reason was given'}")
            return
        self.plan.check_weights()
        dice = record.dice()
        reached = "diverged" if dice is None else f"DSC {dice:.3f}"
        seconds = round(time.monotonic() - began)
        tqdm.write(f"{self._count_done()}/{len(self.plan.runs)} {run}: {reached} in {seconds} s{self._time_left()}")

    def _time_left(self) -> str:
        """By the pace since this process began, of all processes together."""
        done = self._count_done()
        left = len(self.plan.runs) - done
        if left == 0 or done == self.done_before:
            return ""
        seconds = (time.time() - self.began) / (done - self.done_before) * left
        hours, minutes = divmod(max(1, round(seconds / 60)), 60)
        return f"; about {hours} h {minutes} min left" if hours else f"; about {minutes} min left"

    def _count_done(self) -> int:
        return sum(self.plan.record(run) is not None for run in self.plan.runs)

    def _failed(self) -> dict[Run, Failure]:
        """Those that failed since this process began, here or in another process."""
        found = {
            run: failure
            for run in self.plan.runs
            if self.plan.record(run) is None and (failure := read_failure(self.plan.folder_of(run))) is not None
        }
        return {run: failure for run, failure in found.items() if failure.when >= self.began}

    def _left_over(self, failed: dict[Run, Failure]) -> dict[Run, str]:
        reasons = {run: failure.reason for run, failure in failed.items()}
        for run in self.plan.runs:
            blocking = [awaited for awaited in self.plan.waits_for(run) if awaited in failed]
            if blocking:
                reasons[run] = f"its learning rate is not chosen, for a run of the sweep failed: {blocking[0]}"
        return reasons


def _train(folder: Path, bar: tqdm) -> int:
    """Start the process of a run and wait for it; its exit code."""
    process = _process_of(folder)
    process.start()
    try:
        return _wait(process, bar)
    except KeyboardInterrupt:
        if process.pid is not None and sys.platform != "win32":  # there, the console has told it too
            os.kill(process.pid, signal.SIGINT)
        tqdm.write("stopping: the run keeps its last epoch")
        process.join()
        raise


def _process_of(folder: Path) -> BaseProcess:
    """A server process reads the libraries once, and gives every run a fresh process with them in no time. It does
    nothing else, so that no thread and no GPU of this process is in those of the runs.
    """
    if sys.platform == "win32":
        return multiprocessing.get_context("spawn").Process(target=run_process, args=(folder,))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([run_process.__module__])
    return context.Process(target=run_process, args=(folder,))


def _wait(process: BaseProcess, bar: tqdm) -> int:
    while process.exitcode is None:
        process.join(timeout=_PATIENCE)
        bar.refresh()
    return process.exitcode


def _ended(code: int) -> str:
    if code >= 0:
        return f"its process ended with code {code}"
    name = signal.Signals(-code).name
    advice = " (the system does so where memory runs out: lower batch_size)" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{advice}"


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM, as a queueing system sends it, is as Ctrl-C."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread, where signals are not ours
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
