"""Stopping long work from another thread, and hearing how far it is."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["CancelToken", "Cancelled", "Progress"]

Progress = Callable[[int, int], None]
"""Called with the steps that are done and the steps in all, in the thread that works."""


class Cancelled(Exception):  # noqa: N818 - it is no error: the user asked for it
    """Work was stopped by its :class:`CancelToken`; what it worked on is as it was before."""


class CancelToken:
    """Asks one piece of work to stop. Any thread may cancel; the work looks at it between steps."""

    def __init__(self) -> None:
        self._event = threading.Event()

    @property
    def cancelled(self) -> bool:
        """Whether :meth:`cancel` was called."""
        return self._event.is_set()

    def cancel(self) -> None:
        """Ask the work to stop."""
        self._event.set()

    def check(self) -> None:
        """Stop here if so asked.

        Raises:
            Cancelled: after :meth:`cancel`.
        """
        if self._event.is_set():
            raise Cancelled("The work was cancelled; nothing was changed.")
