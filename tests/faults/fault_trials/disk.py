"""Trial 4: a disk that is full or read-only costs what comes after the last checkpoint and nothing else."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from quiet_runs import resume, train
from tiny_run import Signalling, difference, save_model, tiny_run

from ddpo.report.progress import QuietDisplay
from ddpo.runs.checkpoints import Checkpoints
from ddpo.runs.folder import RunFolder
from ddpo.runtime.errors import CheckpointError, RunFolderError
from fault_trials.refusals import flaw_of, flaw_of_ending, run_here
from fault_trials.registry import Cases, trial

REWARD = f"{Path(__file__).parents[2] / 'support' / 'tiny_run.py'}:by_content"
ITERATIONS, KEPT = 6, 4
"""Of the run, and before the disk is full: the fifth line of metrics.jsonl needs a new page of 4096 bytes."""
PAGE = 4096
WRITES = {
    "metrics": ("rollout", 1, (0,)),
    "checkpoint": ("checkpoint", 1, range(24)),
    "fixed samples and model": ("fixed samples", 2, range(0, 96, 3)),
    "end of the run": ("checkpoint", 2, range(20, 96, 4)),
    "checkpoint when interrupted": ("rollout", 2, range(0, 48, 2)),
}
"""What is written next when a phase of the resumed run is reported for the so-manieth time, and how many pages of the
disk are left then."""
INTERRUPTED = "checkpoint when interrupted"


class Disk(Protocol):
    """Where the run folder is."""

    folder: Path

    def fill(self, left: int) -> None:
        """Take all space but so many bytes."""

    def make_room(self) -> None:
        """Give it back."""


class SmallDisk:
    """A tmpfs of 2 MB."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._filler = folder, folder / "filler"

    @classmethod
    @contextmanager
    def mounted(cls, folder: Path) -> Iterator[SmallDisk | None]:
        """Mount it inside the context, if that is allowed."""
        folder.mkdir()
        if not _done("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)):
            yield None
            return
        try:
            yield cls(folder)
        finally:
            assert _done("umount", str(folder)) or _done("umount", "--lazy", str(folder))

    def fill(self, left: int) -> None:
        with self._filler.open("wb", buffering=0) as file:
            with suppress(OSError):  # until nothing more goes in: what the system says is free is not exact
                while True:
                    file.write(bytes(PAGE))
            file.truncate(max(0, file.tell() - left))

    def make_room(self) -> None:
        self._filler.unlink(missing_ok=True)


class LimitedFiles:
    """Where nothing may be mounted: no file of this process may be longer than the space that is left."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self._limits = folder, resource.getrlimit(resource.RLIMIT_FSIZE)
        self._handler = signal.getsignal(signal.SIGXFSZ)

    def fill(self, left: int) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (left + PAGE, self._limits[1]))

    def make_room(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._limits)
        signal.signal(signal.SIGXFSZ, self._handler)


@contextmanager
def _read_only(folder: Path) -> Iterator[bool]:
    """Let nothing be written into a folder by its path; gives whether that could be done."""
    if os.geteuid():
        places = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
        for place in places:
            place.chmod(0o555)
        try:
            yield True
        finally:
            for place in places:
                place.chmod(0o755)
        return
    mounted = _done("mount", "--bind", str(folder), str(folder))  # above it: the lock stays open for writing
    try:
        yield mounted and _done("mount", "-o", "remount,bind,ro", str(folder))
    finally:
        assert not mounted or _done("umount", str(folder)) or _done("umount", "--lazy", str(folder))


def _done(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@trial(
    4,
    "disk",
    "A full or read-only disk ends a run with one sentence; the checkpoint before is whole, and with room the run ends "
    "as if nothing had happened.",
    fast=2,
    full=100,
)
def full_disks(size: int, folder: Path) -> Cases:
    """Fill a disk before every kind of file, to at most `size` levels of each; every fifth goes on to the end then."""
    changes = {"reward": REWARD, "iterations": ITERATIONS, "lora": {"rank": 2}, "keep_last": ITERATIONS + 1}
    evaluation = {"number": 2, "every": ITERATIONS}
    config = tiny_run(save_model(folder / "model"), folder / "whole", evaluation=evaluation, **changes)
    whole = train(config, display=_Copying(folder / "whole", folder / "kept")).folder
    with _small_disk(folder / "disk") as disk:
        for number, (what, left) in enumerate(_levels(size)):
            run, (phase, at, _) = _placed(folder / "kept", disk.folder), WRITES[what]
            display = _Filling(disk, phase, at, left * PAGE, signal.SIGTERM if what == INTERRUPTED else None)
            problem = _flaw_of_run(run, display)
            disk.make_room()
            yield f"{left} pages left for the {what}", problem or _lost_behind(run, whole, goes_on=number % 5 == 1)
        for left in range(3):
            run = _placed(folder / "kept", disk.folder)
            run.lock_file.unlink()
            disk.fill(left * PAGE)
            problem = _flaw_of_command(run)
            disk.make_room()
            yield f"{left} pages left before the run goes on", problem or _lost_behind(run, whole, goes_on=left == 0)
    yield from _read_only_disks(size, folder, whole)


@contextmanager
def _small_disk(folder: Path) -> Iterator[Disk]:
    with SmallDisk.mounted(folder) as mounted:
        disk: Disk = mounted or LimitedFiles(folder)
        try:
            yield disk
        finally:
            disk.make_room()


def _levels(size: int) -> Iterator[tuple[str, int]]:
    """Yield what is to be written and how many pages are left for it, `size` numbers of each spread evenly."""
    for what, (_, _, pages) in WRITES.items():
        number = min(size, len(pages))
        yield from ((what, pages[(2 * index + 1) * len(pages) // (2 * number)]) for index in range(number))


def _read_only_disks(size: int, folder: Path, whole: RunFolder) -> Cases:
    run = _placed(folder / "kept", folder)
    with _read_only(run.path) as is_read_only:
        yield "read-only before the run goes on", _flaw_of_command(run) if is_read_only else None
    for phase, at in list({"update": 2, "checkpoint": 1, "rollout": 1, "fixed samples": 2}.items())[:size]:
        run = _placed(folder / "kept", folder)
        with ExitStack() as stack:
            problem = _flaw_of_run(run, _Closing(stack, run.path, phase, at))
        yield f"read-only from {phase} {at} on", problem or _lost_behind(run, whole, goes_on=phase == "checkpoint")


def _placed(kept: Path, folder: Path) -> RunFolder:
    """Return a copy of the kept run in a folder."""
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(kept, run)
    return RunFolder(run)


def _flaw_of_command(run: RunFolder) -> str | None:
    return flaw_of_ending(run_here(["resume", str(run.path)], run.path.parent), str(run.path))


def _flaw_of_run(run: RunFolder, display: QuietDisplay) -> str | None:
    """Go on with a run; return what is wrong with how it ends: there was room, or it says that there is none."""
    try:
        resume(run.path, display=display)
    except (CheckpointError, RunFolderError) as error:
        named = str(run.path) in str(error)
        return flaw_of(str(error)) if named else f"does not name the folder: {error}"
    except Exception as error:
        return f"raised {type(error).__name__}: {str(error)[:300]}"
    return None


def _lost_behind(run: RunFolder, whole: RunFolder, *, goes_on: bool) -> str | None:
    """Return what a run that failed has lost, now that there is room again."""
    checkpoint = Checkpoints(run.checkpoints).get()
    if checkpoint.position < (KEPT, True):
        return f"the last checkpoint is {checkpoint.name}"
    return difference(resume(run.path).folder, whole) if goes_on else None


class _Copying(QuietDisplay):
    """Keeps the run folder as it is at the save behind the checkpoint that is to be kept."""

    def __init__(self, folder: Path, target: Path) -> None:
        self._folder, self._target, self._saves = folder, target, 0

    def phase(self, name: str, done: int, total: int) -> None:
        self._saves += name == "checkpoint"
        if name == "checkpoint" and self._saves == KEPT + 1:
            shutil.copytree(self._folder, self._target)


class _Filling(Signalling):
    """Fills the disk, but for so many bytes, when a phase has been reported for the `at`-th time."""

    def __init__(self, disk: Disk, phase: str, at: int, left: int, number: int | None) -> None:
        super().__init__(phase, at)
        self._disk, self._left, self._signal = disk, left, number

    def reached(self) -> None:
        self._disk.fill(self._left)
        if self._signal is not None:
            signal.raise_signal(self._signal)


class _Closing(Signalling):
    """Makes the folder read-only then."""

    def __init__(self, stack: ExitStack, folder: Path, phase: str, at: int) -> None:
        super().__init__(phase, at)
        self._stack, self._folder = stack, folder

    def reached(self) -> None:
        self._stack.enter_context(_read_only(self._folder))
