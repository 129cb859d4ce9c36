"""Runs commands as subprocesses, several at a time; stops cleanly and goes on where it stopped. Never imports torch."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddpo.report.wording import duration
from ddpo.runs.folder import RunFolder
from ddpo.runtime.errors import ExperimentError
from ddpo.runtime.files import lock, write_atomically

POLL, GRACE = 0.2, 10.0
"""Seconds between looks at the subprocesses, and until one that was told to end is killed."""
LAST_LINES = 8
"""Lines of a failed command's log that are shown."""


@dataclass(frozen=True)
class Step:
    """One command. It is finished when its marker is there, which is written after exit code 0 only."""

    name: str
    command: tuple[str, ...]
    product: Path
    """The folder or JSON file that the command makes; removed before it is made again, unless the command `resumes`."""
    resumes: bool = False
    """Whether the command trains and goes on from the checkpoints it left when it was interrupted."""
    after: str | None = None
    """The name of the step that must be finished before."""

    @property
    def marker(self) -> Path:
        """JSON file that says that the step is finished: inside the product, or beside it if that is a JSON file."""
        is_file = self.product.suffix == ".json"
        return self.product.with_suffix(".finished.json") if is_file else self.product / "finished.json"

    @property
    def is_finished(self) -> bool:
        """Whether the command has been run to its end and what it made is still there."""
        return self.marker.is_file() and self.product.exists()

    def clear(self) -> None:
        """Remove what an interrupted command left and does not use."""
        if not self.product.is_dir():
            self.product.unlink(missing_ok=True)
        elif not self.resumes:
            shutil.rmtree(self.product)
        self.marker.unlink(missing_ok=True)
        self.product.parent.mkdir(parents=True, exist_ok=True)

    def finish(self, seconds: float, origin: Mapping[str, Any]) -> None:
        """Write the marker; checkpoints of a finished run are of no use."""
        if self.resumes:
            shutil.rmtree(RunFolder(self.product).checkpoints, ignore_errors=True)
        record = {"step": self.name, "command": self.command, "seconds": round(seconds, 1), "origin": origin}
        write_atomically(self.marker, json.dumps(record, indent=1).encode())


class Runner:
    """Runs steps in the given order, as many at a time as there are slots, alone in its work folder."""

    def __init__(
        self, work: Path, slots: Sequence[Mapping[str, str]], tell: Callable[[str], None], origin: Mapping[str, Any]
    ) -> None:
        """`work` holds logs and lock; `slots` are the environment variables of what runs at one time (a GPU each).

        `tell` prints a line; `origin` goes into the markers: versions and machine.
        """
        self._work, self._slots, self._tell, self._origin = work, slots, tell, origin
        self._working: dict[int, tuple[Step, subprocess.Popen[bytes], float]] = {}
        """By its slot what is at work, and when it was started."""
        self._finished: set[str] = set()
        self._failed: dict[str, str] = {}

    def run(self, steps: Sequence[Step]) -> dict[str, str]:
        """Run every step that is not finished; return for those that failed the reason in the words of their log.

        A step that fails does not keep the others from running.

        Raises:
            ExperimentError: another process runs steps in the work folder.
            KeyboardInterrupt: Ctrl-C or SIGTERM; the subprocesses are stopped.
        """
        file = self._work / ".lock"
        held = lock(file)  # by the subprocesses too: the system lifts it when all have ended, however they ended
        if held is None:
            owner = file.read_text(encoding="utf-8") or "another command"
            raise ExperimentError(f"{self._work} is in use by {owner}; wait for it, end it or give another --work.")
        held.write(f"process {os.getpid()}")
        held.flush()
        self._total = len(steps)
        self._finished = {step.name for step in steps if step.is_finished}
        waiting = [step for step in steps if step.name not in self._finished]
        if self._finished:
            self._tell(f"{len(self._finished)} of {self._total} are finished already")
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            while waiting or self._working:
                self._collect()
                waiting = [step for step in waiting if not self._begin(step, held.fileno())]
                time.sleep(POLL)
        finally:
            self._stop()
            held.close()
            signal.signal(signal.SIGTERM, before)
        return self._failed

    def _begin(self, step: Step, held: int) -> bool:
        """Return whether the step waits no more: it was started in a free slot, or what it needs has failed."""
        free = set(range(len(self._slots))) - self._working.keys()
        if step.after in self._failed:
            self._fail(step, f"it needs {step.after}")
        elif free and (step.after is None or step.after in self._finished):
            self._start(step, min(free), held)
        else:
            return False
        return True

    def _start(self, step: Step, slot: int, held: int) -> None:
        step.clear()
        file = self._log(step)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab") as log:
            log.write(f"$ {' '.join(step.command)}\n".encode())
            log.flush()
            process = subprocess.Popen(
                step.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._slots[slot]},
                start_new_session=True,  # else Ctrl-C would reach a training twice, and end it before it has saved
                pass_fds=(held,),
                preexec_fn=_die_with_parent,  # of the thread that starts it: no pool of threads here
            )
        self._working[slot] = step, process, time.monotonic()
        self._tell(f"{self._count()} started {step.name}")

    def _collect(self) -> None:
        """Take note of the subprocesses that have ended."""
        for slot, (step, process, started) in list(self._working.items()):
            if process.poll() is None:
                continue
            del self._working[slot]
            if process.returncode == 0 and step.product.exists():
                seconds = time.monotonic() - started
                step.finish(seconds, self._origin)
                self._finished.add(step.name)
                self._tell(f"{self._count()} finished {step.name} in {duration(seconds)}")
            else:
                self._fail(step, self._reason(process.returncode, step))

    def _fail(self, step: Step, reason: str) -> None:
        self._failed[step.name] = reason
        self._tell(f"{self._count()} FAILED {step.name}: {reason}")

    def _log(self, step: Step) -> Path:
        return self._work / "logs" / f"{step.name}.log"

    def _reason(self, code: int, step: Step) -> str:
        """Say why a command failed: its exit code and the last lines of its log."""
        lines = self._log(step).read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        how = f"ended without making {step.product}" if code == 0 else how
        return "\n".join([f"it {how}; the log {self._log(step)} ends:", *(f"    {line}" for line in lines)])

    def _count(self) -> str:
        """How many steps have ended, of all."""
        return f"[{len(self._finished) + len(self._failed):>{len(str(self._total))}}/{self._total}]"

    def _stop(self) -> None:
        """End the subprocesses, each with all that it started."""
        processes = [process for _, process, _ in self._working.values()]
        for process in processes:
            _signal(process, signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal(process, signal.SIGKILL)
                process.wait()


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


if sys.platform == "linux":
    _C_LIBRARY = ctypes.CDLL(None)


def _die_with_parent() -> None:
    """Have the system kill this process when the runner is killed; elsewhere than on Linux the lock says it lives."""
    if sys.platform == "linux":
        _C_LIBRARY.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
