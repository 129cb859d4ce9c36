"""What a trial is, the table of all of them, and how one is counted."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

Cases = Iterator[tuple[str, str | None]]
"""The name of each case tried, and what was lost in it, or None where it survived."""
SUBJECTS = (
    "interruptions",
    "saves",
    "disk",
    "damage",
    "nonfinite",
    "endurance",
    "canary",
    "rewards",
    "hanging",
    "prompts",
    "configurations",
    "models",
)
"""Modules of this package that hold trials."""


@dataclass(frozen=True)
class Trial:
    """Something that goes wrong in many ways, and what is promised then."""

    number: int
    name: str
    promise: str
    """One sentence; docs/reliability.md repeats it."""
    run: Callable[[int, Path], Cases]
    """Takes the size and an empty folder to work in."""
    fast: int
    """The size in the tests; the docstring of `run` says what it counts."""
    full: int
    """The size in `benchmarks/faults.py`."""


@dataclass(frozen=True)
class Tally:
    """What came of a trial."""

    trial: Trial
    size: int
    tried: int
    lost: dict[str, str]
    """What was lost, by case."""
    seconds: float

    @property
    def survived(self) -> int:
        """Cases in which nothing was lost."""
        return self.tried - len(self.lost)

    @property
    def summary(self) -> str:
        """The three counts in words."""
        return f"tried {self.tried}, survived {self.survived}, lost {len(self.lost)}"


_TRIALS: dict[str, Trial] = {}


def trial(
    number: int, name: str, promise: str, *, fast: int, full: int
) -> Callable[[Callable[[int, Path], Cases]], Callable[[int, Path], Cases]]:
    """Enter the decorated function into the table."""

    def enter(run: Callable[[int, Path], Cases]) -> Callable[[int, Path], Cases]:
        assert name not in _TRIALS, f"there are two trials '{name}'"
        _TRIALS[name] = Trial(number, name, promise, run, fast, full)
        return run

    return enter


def all_trials() -> list[Trial]:
    """Return every trial, by number."""
    for subject in SUBJECTS:
        importlib.import_module(f"fault_trials.{subject}")
    return sorted(_TRIALS.values(), key=lambda one: (one.number, one.name))


def count(one: Trial, size: int, folder: Path, each: Callable[[str, str | None], None] = lambda *_: None) -> Tally:
    """Try every case of a trial; `each` is told of it when it is done.

    Raises AssertionError when there is no case or two have one name: nothing would be shown then.
    """
    start, found = time.monotonic(), dict[str, str | None]()
    for case, problem in one.run(size, folder):
        assert case not in found, f"trial {one.name} has two cases '{case}'"
        found[case] = problem
        each(case, problem)
    assert found, f"trial {one.name} tried nothing"
    lost = {case: problem for case, problem in found.items() if problem is not None}
    return Tally(one, size, len(found), lost, time.monotonic() - start)
