"""Being told to stop: the first signal asks the run to save and end, a second one ends it at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)  # SIGUSR1 is what SLURM is told to send ahead of a time limit
"""Signals that ask a run to save and end."""


class Interrupted(Exception):  # noqa: N818 - a request, not an error
    """Raised between two microbatches once the run was told to stop; carries the signal's number."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number

    @property
    def exit_code(self) -> int:
        """128 plus the signal: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.signal_number


class StopRequest:
    """Whether the run was told to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take note of `SIGNALS` inside the context instead of ending; outside the main thread nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: installed from C

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Remember the first signal; let the second do what it does to any program."""
        del frame
        if self.signal_number is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.signal_number = number
