"""Work on one persistent thread, beside the application's main thread: progress, cancel, results.

The thread stays: PyTorch's first call on a fresh thread costs about a second. It never touches MRML; results wait until
the main thread asks for them.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any


class Cancelled(Exception):
    """The user stopped a job."""


class Job:
    """One piece of work, seen from both threads.

    Args:
        work: is called with the job on the worker's thread; what it returns is the result.
    """

    def __init__(self, work: Callable[[Job], Any]) -> None:
        self._work = work
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._stop: Callable[[], None] | None = None
        self.progress = (0, 0)
        """Steps done and steps in all; (0, 0) while that is not known."""
        self.result: Any = None
        self.error: BaseException | None = None

    @property
    def cancelled(self) -> bool:
        """Whether it was asked to stop."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Ask it to stop, from any thread. Its result is not delivered, even if it came to an end just now."""
        self._cancelled.set()
        with self._lock:
            if self._stop is not None:
                self._stop()

    def check(self) -> None:
        """To be called by the work between two steps.

        Raises:
            Cancelled: if it was asked to stop.
        """
        if self._cancelled.is_set():
            raise Cancelled

    def report(self, done: int, total: int) -> None:
        """To be called by the work: how far it is. Stops it there if so asked.

        Raises:
            Cancelled: if it was asked to stop.
        """
        self.progress = (done, total)
        self.check()

    @contextlib.contextmanager
    def stopped_by(self, stop: Callable[[], None]) -> Iterator[None]:
        """While the work waits for something, what makes that end at once: called by ``cancel`` on its thread."""
        with self._lock:
            self._stop = stop
        try:
            self.check()
            yield
        finally:
            with self._lock:
                self._stop = None

    def leave_if_cancelled(self, call: Callable[[], Any]) -> Any:
        """Call something that cannot be stopped, such as connecting; where this job is cancelled meanwhile, it is left
        alone on a thread of its own.

        Returns:
            what it returns.

        Raises:
            Cancelled: if it was asked to stop.
            Exception: what the call raised.
        """
        left, ended = Job(lambda _: call()), threading.Event()
        threading.Thread(target=lambda: (left.run(), ended.set()), daemon=True).start()
        with self.stopped_by(ended.set):
            ended.wait()
        self.check()
        if left.error is not None:
            raise left.error
        return left.result

    def run(self) -> None:
        """Do the work, on the thread that calls."""
        try:
            self.check()
            self.result = self._work(self)
        except BaseException as error:  # whatever it is, it belongs to the user and must not end the thread
            self.error = error


class State(Enum):
    """What the background does."""

    IDLE = "idle"
    WORKING = "working"
    CANCELLING = "cancelling"


class BusyError(RuntimeError):
    """Something runs already."""


class Background:
    """One job at a time on the persistent thread. Everything here is called on the main thread.

    While ``state`` is not ``State.IDLE``, ``update`` is to be called a few times a second, by a timer.
    """

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._finished: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._job: Job | None = None
        self._deliver: Callable[[Any], None] | None = None
        self._thread = threading.Thread(target=self._work, name="COBOT", daemon=True)
        self._thread.start()

    @property
    def state(self) -> State:
        """What it does now."""
        if self._job is None:
            return State.IDLE
        return State.CANCELLING if self._job.cancelled else State.WORKING

    @property
    def progress(self) -> tuple[int, int]:
        """Steps done and steps in all of what runs; (0, 0) where that is not known, or nothing runs."""
        return (0, 0) if self._job is None else self._job.progress

    def start(self, work: Callable[[Job], Any], deliver: Callable[[Any], None]) -> Job:
        """Begin a job.

        Args:
            work: is called with the job on the thread; must not touch the scene.
            deliver: is called with its result by ``update``, unless it fails or is cancelled.

        Raises:
            BusyError: something runs.
        """
        if self._job is not None:
            stopping = "is being stopped" if self._job.cancelled else "runs"
            raise BusyError(f"The last request still {stopping}. Wait for it, or cancel it.")
        self._job, self._deliver = Job(work), deliver
        self._waiting.put(functools.partial(self._run, self._job))
        return self._job

    def afterwards(self, work: Callable[[], Any]) -> None:
        """Have something done on the thread behind what runs, such as closing what it uses. Nobody waits for it."""
        self._waiting.put(Job(lambda _: work()).run)

    def update(self) -> bool:
        """Deliver what is ready. Never waits.

        Returns:
            whether the job came to an end; also if it was cancelled.

        Raises:
            Exception: what the work, or delivering its result, raised.
        """
        try:
            job = self._finished.get_nowait()
        except queue.Empty:
            return False
        deliver, self._job, self._deliver = self._deliver, None, None
        if job.cancelled:  # maybe only after it came to an end
            return True
        if job.error is not None:
            raise job.error
        assert deliver is not None
        deliver(job.result)
        return True

    def cancel(self) -> None:
        """Stop what runs; ``update`` says when it has ended. Nothing of it is delivered."""
        if self._job is not None:
            self._job.cancel()

    def close(self, timeout: float = 5.0) -> bool:
        """Stop what runs, and let the thread end.

        Args:
            timeout: seconds to wait for that.

        Returns:
            whether it ended; a daemon, it does not keep the application from closing.
        """
        self.cancel()
        self._waiting.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self, job: Job) -> None:
        job.run()
        self._finished.put(job)

    def _work(self) -> None:
        while (work := self._waiting.get()) is not None:
            work()
