"""Trial 3: a process that is killed at any file operation of a save leaves a checkpoint that loads."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from quiet_runs import resume, train
from tiny_run import by_content, difference, save_model, tiny_run

from ddpo.report.progress import QuietDisplay
from ddpo.runs.checkpoints import Checkpoints
from ddpo.runs.folder import RunFolder
from ddpo.runtime.errors import CheckpointError
from fault_trials.registry import Cases, trial

EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "shutil.rmtree")
"""Audit events of what touches files."""
SAVE = 3
"""The save that is interrupted: the first at which an older checkpoint is removed."""


@trial(
    3,
    "save",
    "A process that is killed at any file operation of a save leaves a whole checkpoint, and what is half written is "
    "ignored and said.",
    fast=2,
    full=1000,
)
def killed_saves(size: int, folder: Path) -> Cases:
    """Kill a run before each file operation of a save; `size` of what it leaves are resumed to the end."""
    config = tiny_run(save_model(folder / "model"), folder / "run", iterations=4)
    display = _Forking(folder / "run", folder / "left")
    whole = train(config, reward=by_content, display=display).folder
    left = display.left
    resumed = {left[index * len(left) // min(size, len(left))] for index in range(min(size, len(left)))}
    for path in left:
        yield path.name, _lost(RunFolder(path), whole, resumed=path in resumed)


def _lost(folder: RunFolder, whole: RunFolder, *, resumed: bool) -> str | None:
    checkpoints = Checkpoints(folder.checkpoints)
    try:
        position = checkpoints.get().position
    except CheckpointError as error:
        return str(error)
    if position not in ((SAVE - 1, True), (SAVE, True)):
        return f"the latest checkpoint is that of iteration {position[0]}"
    if not resumed:
        return None
    half_written, said = checkpoints.half_written(), _Listening()
    result = resume(folder.path, reward=by_content, display=said)
    if len([text for text in said.texts if text.startswith("Ignored: ")]) != len(half_written):
        return f"{len(half_written)} half-written checkpoints, but it said {said.texts}"
    return difference(result.folder, whole)


class _Listening(QuietDisplay):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def message(self, text: str) -> None:
        self.texts.append(text)


class _Forking(QuietDisplay):
    """Forks the run at the beginning of a save: each child is killed at another file operation of it."""

    def __init__(self, output: Path, kept: Path) -> None:
        self._output, self._kept, self._saves, self._is_child = output, kept, 0, False
        self.left: list[Path] = []
        """Copies of the run folder as each child left it."""

    def phase(self, name: str, done: int, total: int) -> None:
        if self._is_child:
            os._exit(0)  # its save came to its end
        self._saves += name == "checkpoint"
        if name == "checkpoint" and self._saves == SAVE:
            shutil.copytree(self._output, self._kept / "before")
            while not self._is_child and self._left_something(len(self.left) + 1):
                pass

    def _left_something(self, operation: int) -> bool:
        """Let a child save until it is killed, keep what it left and undo it; False once it is not killed."""
        pid = os.fork()
        if pid == 0:
            self._is_child = True
            _kill_at(operation, str(self._output / "checkpoints"))
            return False
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        assert code in (0, -signal.SIGKILL), f"the save ended with {code}"
        if code:
            self.left.append(self._kept / f"operation {operation}")
            shutil.copytree(self._output, self.left[-1])
        shutil.rmtree(self._output / "checkpoints")
        shutil.copytree(self._kept / "before" / "checkpoints", self._output / "checkpoints")
        return code != 0


def _kill_at(operation: int, folder: str) -> None:
    """Kill this process before its `operation`-th file operation inside `folder`."""
    seen: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in EVENTS:
            return
        inside_rmtree = event in ("os.remove", "os.rmdir") and arguments[-1] != -1  # relative to an open folder
        if inside_rmtree or any(str(argument).startswith(folder) for argument in arguments[:2]):
            seen.append(event)
            if len(seen) == operation:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
