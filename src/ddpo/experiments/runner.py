"""Runs steps as subprocesses, several at a time; stops cleanly and goes on where it stopped. Never imports torch."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from ddpo.experiments.steps import Step
from ddpo.report.wording import duration
from ddpo.runtime.files import lock as lock_file

POLL = 0.2
"""Seconds between looks at the subprocesses."""
GRACE = 10.0
"""Seconds that a subprocess is given to end before it is killed."""
LAST_LINES = 8
"""Lines of a failed command's log that are shown."""

Environment = Mapping[str, str]


@dataclass
class Outcome:
    """What became of the steps."""

    finished: list[str] = field(default_factory=list)
    """Steps that are finished, whoever ran them."""
    failed: dict[str, str] = field(default_factory=dict)
    """Why each other step is not, in the words of its log."""


@dataclass
class _Working:
    """A subprocess at work."""

    step: Step
    slot: int
    process: subprocess.Popen[bytes]
    lock: IO[str]
    started: float


class Runner:
    """Runs steps in the given order, as many at a time as there are slots.

    A step is run by one process at a time, whatever the number of runners in a work folder: the file `Step.lock` is
    locked by runner and subprocess, and the system frees it when both have ended, however they ended.
    """

    def __init__(self, steps: Sequence[Step], slots: Sequence[Environment], tell: Callable[[str], None]) -> None:
        """`slots` are the environment variables of what runs at one time (a GPU each); `tell` prints a line."""
        self._steps = {step.name: step for step in steps}
        self._waiting = list(steps)
        self._slots = dict(enumerate(slots))
        self._working: list[_Working] = []
        self._told_busy: set[str] = set()
        self._clock = _Clock(steps, len(slots))
        self._tell = tell
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Run every step that is not finished and return what became of all.

        A step that fails does not keep the others from running.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM; the subprocesses are stopped.
        """
        self._leave_out_finished()
        try:
            with _terminable():
                while self._waiting or self._working:
                    self._collect()
                    self._start()
                    time.sleep(POLL)
        finally:
            self._stop()
        return self.outcome

    def _leave_out_finished(self) -> None:
        for step in [step for step in self._waiting if step.is_finished]:
            self._done(step)
        if self.outcome.finished:
            self._tell(f"{len(self.outcome.finished)} of {len(self._steps)} are finished already")

    def _start(self) -> None:
        """Give free slots to the first waiting steps that can be run now."""
        for step in list(self._waiting):
            if step.after in self.outcome.failed:
                self._fail(step, f"it needs {step.after}")
            elif self._free_slots() and (step.after is None or step.after in self.outcome.finished):
                self._try(step)

    def _free_slots(self) -> list[int]:
        return sorted(set(self._slots) - {working.slot for working in self._working})

    def _try(self, step: Step) -> None:
        """Start a step unless another process is at it or has just finished it."""
        lock = lock_file(step.lock)
        if lock is None:
            if step.name not in self._told_busy:
                self._told_busy.add(step.name)
                self._tell(f"another process is at {step.name}; waiting for it")
        elif step.is_finished:
            lock.close()
            self._done(step)
            self._tell(f"{self._count()} finished elsewhere: {step.name}")
        else:
            self._waiting.remove(step)
            self._launch(step, lock)

    def _launch(self, step: Step, lock: IO[str]) -> None:
        slot = self._free_slots()[0]
        step.clear()
        step.log.parent.mkdir(parents=True, exist_ok=True)
        with step.log.open("ab") as log:
            log.write(f"$ {' '.join(step.command)}\n".encode())
            log.flush()
            process = subprocess.Popen(
                step.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **step.environment, **self._slots[slot]},
                start_new_session=True,
                pass_fds=(lock.fileno(),),
                preexec_fn=_die_with_parent,
            )
        lock.write(f"runner {os.getpid()}, process {process.pid}\n")
        lock.flush()
        self._working.append(_Working(step, slot, process, lock, time.monotonic()))
        self._tell(f"{self._count()} started {step.name}")

    def _collect(self) -> None:
        """Take note of the subprocesses that have ended."""
        for working in list(self._working):
            code = working.process.poll()
            if code is None:
                continue
            self._working.remove(working)
            step, seconds = working.step, time.monotonic() - working.started
            if code == 0 and step.product.exists():
                step.finish(seconds)
                self._done(step)
                self._tell(f"{self._count()} finished {step.name} in {duration(seconds)}{self._time_left()}")
            else:
                self._fail(step, _reason(code, step))
            working.lock.close()

    def _done(self, step: Step) -> None:
        if step in self._waiting:
            self._waiting.remove(step)
        self.outcome.finished.append(step.name)
        self._clock.finished(step)

    def _fail(self, step: Step, reason: str) -> None:
        if step in self._waiting:
            self._waiting.remove(step)
        self.outcome.failed[step.name] = reason
        self._clock.given_up(step)
        self._tell(f"{self._count()} FAILED {step.name}: {reason}")

    def _count(self) -> str:
        """How many steps have ended, of all."""
        ended, total = len(self.outcome.finished) + len(self.outcome.failed), len(self._steps)
        return f"[{ended:>{len(str(total))}}/{total}]"

    def _time_left(self) -> str:
        left = self._clock.left([(working.step, time.monotonic() - working.started) for working in self._working])
        return f"; about {duration(left)} left" if left else ""

    def _stop(self) -> None:
        """End the subprocesses, each with all that it started."""
        for working in self._working:
            _signal(working.process, signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        for working in self._working:
            try:
                working.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal(working.process, signal.SIGKILL)
                working.process.wait()
            working.lock.close()
        self._working.clear()


class _Clock:
    """Estimates the time that is left from what finished steps took, by their cost."""

    def __init__(self, steps: Sequence[Step], slots: int) -> None:
        self._open = {step.name: step.cost for step in steps}
        self._slots = slots
        self._seconds = self._cost = 0.0

    def finished(self, step: Step) -> None:
        """Count a finished step, also one finished by an earlier command."""
        self._seconds += float(step.finished()["seconds"])
        self._cost += self._open.pop(step.name)

    def given_up(self, step: Step) -> None:
        """Leave a step out."""
        self._open.pop(step.name)

    def left(self, working: Sequence[tuple[Step, float]]) -> float:
        """Return the seconds left, given the steps at work and the seconds each has worked."""
        rate = self._seconds / self._cost if self._cost else 0.0
        seconds = sum(self._open.values()) * rate
        seconds -= sum(min(worked, step.cost * rate) for step, worked in working)
        return seconds / max(1, min(self._slots, len(self._open)))


def _reason(code: int, step: Step) -> str:
    """Say why a command failed: its exit code and the last lines of its log."""
    lines = step.log.read_text(encoding="utf-8", errors="replace").splitlines()
    last = "\n".join(f"    {line}" for line in lines[-LAST_LINES:])
    if code == 0:
        how = f"ended without making {step.product}"
    else:
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return f"it {how}; the log {step.log} ends:\n{last}"


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


if sys.platform == "linux":
    _C_LIBRARY = ctypes.CDLL(None)


def _die_with_parent() -> None:
    """Have the system kill this process when the runner is killed; elsewhere than on Linux the lock says it lives."""
    if sys.platform == "linux":
        _C_LIBRARY.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
