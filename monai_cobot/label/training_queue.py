"""The trainings of a server: one at a time, each in a process of its own, in the order in which they were asked for."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import uuid
from collections import deque
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import psutil

from monai_cobot.errors import describe_cause
from monai_cobot.label.training import Orders, goes_on, prepare

__all__ = ["TrainingQueue", "TrainingsWaitError"]

logger = logging.getLogger(__name__)

_TAIL = 100
_OPEN = ("SUBMITTED", "RUNNING")

_Ordered = tuple[Path, Orders]
_Task = dict[str, Any]


class TrainingsWaitError(RuntimeError):
    """Another training has not ended yet."""


class TrainingQueue:
    """Starts trainings and follows them. Any number of threads may use it.

    A training is told as MONAI Label tells it: ``id``, ``status`` (SUBMITTED, RUNNING, DONE, ERROR or STOPPED),
    ``request``, ``start_ts``, ``end_ts`` and ``details``, the last lines of its log; besides, ``adapter``, the name of
    what it trains, and ``goes_on``, whether it began earlier and was interrupted.
    """

    def __init__(self) -> None:
        self._tasks: list[_Task] = []
        self._guard = threading.RLock()
        self._ordering = threading.Lock()  # held while labels are fetched, which may take minutes: others may look on
        self._waiting: SimpleQueue[tuple[_Task, _Ordered]] = SimpleQueue()
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None

    def submit(
        self, request: Mapping[str, Any], order: Callable[[Collection[str]], _Ordered], enqueue: bool = False
    ) -> _Task:
        """Train, after the trainings that have not ended yet.

        Args:
            request: what was asked for.
            order: given the names of adapters that others are going to train, says what to train and the folder for it.
            enqueue: whether to wait for others.

        Returns:
            How the training is.

        Raises:
            TrainingsWaitError: it would have to wait.
        """
        with self._ordering:
            with self._guard:
                others = {task["adapter"] for task in self._tasks if task["status"] in _OPEN}
            if others and not enqueue:
                raise TrainingsWaitError("a training runs already; wait until it has ended, or stop it.")
            folder, orders = order(others)
            name = Path(orders.adapter).name
            task: _Task = {
                "id": str(uuid.uuid4()),
                "status": "SUBMITTED",
                "request": dict(request),
                "adapter": name,
                "goes_on": goes_on(folder, orders) and name not in others,
                "start_ts": _now(),
                "details": deque(maxlen=_TAIL),
            }
        with self._guard:
            self._tasks.append(task)
            self._waiting.put((task, (folder, orders)))
            if self._thread is None:
                # one that Python does not wait for when the server ends
                self._thread = threading.Thread(target=self._work, name="cobot-trainings", daemon=True)
                self._thread.start()
            return _told(task)

    def tasks(self) -> list[_Task]:
        """How all trainings are, in the order in which they were asked for."""
        with self._guard:
            return [_told(task) for task in self._tasks]

    def stop(self) -> _Task | None:
        """Stop what trains, and what waits to train.

        Returns:
            How the first of them is; None where there was none.
        """
        with self._guard:
            stopped = [task for task in self._tasks if task["status"] in _OPEN]
            for task in stopped:
                task.update(status="STOPPED", end_ts=_now())
            if self._process is not None:
                _kill(self._process)
            return _told(stopped[0]) if stopped else None

    def _work(self) -> None:
        while True:
            task, ordered = self._waiting.get()
            try:
                end = self._run(task, *ordered)
            except Exception as error:  # of whatever kind: those that wait come next
                logger.exception("A training could not be run")
                task["details"].append(f"The training could not be run: {describe_cause(error)}")
                end = "ERROR"
            with self._guard:
                self._process = None
                if task["status"] in _OPEN:
                    task.update(status=end, end_ts=_now())

    def _run(self, task: _Task, folder: Path, orders: Orders) -> str:
        """Run a training to its end, and write what it says into the log."""
        log = logging.getLogger("task_train")
        with self._guard:
            if task["status"] not in _OPEN:  # stopped while it waited
                return str(task["status"])
            task["goes_on"] = prepare(folder, orders)
            process = subprocess.Popen(
                [sys.executable, "-m", "monai_cobot.label.training", str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
            )
            self._process = process
            task["status"] = "RUNNING"
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.strip():
                    log.info(line.rstrip())
                    task["details"].append(line.rstrip())
            return "DONE" if process.wait() == 0 else "ERROR"
        finally:
            _kill(process)


def _told(task: _Task) -> _Task:
    return {**task, "details": list(task["details"])}


def _kill(process: subprocess.Popen[str]) -> None:
    """End a process and those that it started."""
    if process.poll() is not None:
        return
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
    process.kill()


def _now() -> str:
    return datetime.now().strftime("%Y-%m-%d %H:%M:%S")
