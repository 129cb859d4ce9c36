"""Trial 12: a long run holds no more memory, files, threads or tensors at its end than at a third of it."""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mixture import position
from quiet_runs import train

from ddpo.config import parse_config
from ddpo.report.progress import QuietDisplay
from fault_trials.registry import Cases, trial
from fault_trials.toy import toy_policy

LOOKS = 24
"""Moments at which a run is looked at."""
ALLOWED = {"memory (MB)": 24.0, "files": 0.0, "threads": 1.0, "tensors": 0.0}
"""What may be held more at the end than at a third. Memory: the metrics of 2,000 iterations, about 3 kB each, and what
the allocator keeps; a leak of the trajectories (100 kB an iteration) would be 200 MB. A thread may be about to end."""


@trial(
    12,
    "endurance",
    "A long run holds no more memory, open files, threads or tensors at its end than at a third of it.",
    fast=24,
    full=3000,
)
def long_runs(size: int, folder: Path) -> Cases:
    """A run of so many iterations on a toy policy, with checkpoints and fixed samples through it."""
    looking = _Looking(size)
    config = parse_config(
        {
            "name": "toy",
            "output": folder / "run",
            "prompts": ["up", "down"],
            "iterations": size,
            "samples_per_iteration": 256,
            "batch_size": 128,
            "updates_per_iteration": 1,
            "algorithm": {"name": "ddpo-is", "clip_nats": 0.2},
            "learning_rate": 1e-4,
            "scoring": {"workers": 2},
            "evaluation": {"number": 4, "every": size // 4},
            "checkpoint_every": size // 24,
            "threads": 1,
            "device": "cpu",
        }
    )
    result = train(config, policy=toy_policy(), reward=position, display=looking)
    lines = len(result.folder.read_metrics())
    yield "every iteration is recorded", None if lines == size else f"{lines} lines of metrics"
    for what, allowed in ALLOWED.items():
        early, late = looking.between(what, 1 / 3, 2 / 3), looking.between(what, 2 / 3, 1)
        more = max(late) - max(early)
        yield what, f"{more:g} more at the end: {early} and then {late}" if more > allowed else None


@dataclass
class _Looking(QuietDisplay):
    """Counts what the process holds at `LOOKS` moments."""

    iterations: int
    seen: list[dict[str, float]] = field(default_factory=list)

    def iteration(self, metrics: Mapping[str, Any]) -> None:
        if metrics["iteration"] % (self.iterations // LOOKS) == 0:
            self.seen.append(_held())

    def between(self, what: str, start: float, stop: float) -> list[float]:
        """Return what was counted in a part of the run."""
        return [one[what] for one in self.seen[round(start * len(self.seen)) : round(stop * len(self.seen))]]


def _held() -> dict[str, float]:
    """Return what this process holds now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "memory (MB)": pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
        "files": len(list(Path("/proc/self/fd").iterdir())),
        "threads": len(list(Path("/proc/self/task").iterdir())),
        "tensors": sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()),
    }
