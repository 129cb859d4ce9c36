"""An iteration in the making: the samples of this process, their scores and credit, and how far its updates are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file

from ddpo.core.experience import Array
from ddpo.core.policy import Policy
from ddpo.core.prompt import Prompt
from ddpo.core.trajectory import Trajectory

Metrics = dict[str, float]
Progress = Callable[[str, int, int], None]
"""Told the phase, and how much of it is done out of how much."""
_TENSORS = ("states", "means", "log_prob_BL")
"""What is stored of a trajectory; its conditioning comes from the prompts again."""


@dataclass
class Updates:
    """How far the updates of an iteration are, and what they have measured."""

    done: int = 0
    start: Metrics = field(default_factory=dict)
    """Largest ratio errors before the first update."""
    sums: list[tuple[str, float, int]] = field(default_factory=list)
    """Name, sum and count of every averaged metric of this process, for each update."""
    norms: list[float] = field(default_factory=list)
    """Gradient norms of the updates that were not skipped."""


@dataclass
class Iteration:
    """Complete once every sample has its score and its credit, and every update is made."""

    number: int
    """1 for the first of the run."""
    prompts: list[Prompt]
    """Of this process's samples, drawn or not yet."""
    first: int
    """Index of the first of them among those of all processes."""
    scores: dict[str, list[float]]
    """Scores of the samples that have any, in order, by component; NaN where the group is left out."""
    parts: list[Trajectory] = field(default_factory=list)
    """The trajectories of these samples."""
    credit_S: Array | None = None
    """`(S,)`: advantage or weight of every sample over all processes, once all are scored; 0 where it is left out."""
    metrics: Metrics = field(default_factory=dict)
    """Reward statistics over all processes, and seconds by phase."""
    updates: Updates = field(default_factory=Updates)

    @property
    def scored(self) -> int:
        """Number of samples that have their scores."""
        return sum(len(part) for part in self.parts)

    def batches_left(self, size: int) -> Iterator[slice]:
        """Yield the samples that are not scored yet, `size` at a time."""
        for start in range(self.scored, len(self.prompts), size):
            yield slice(start, min(start + size, len(self.prompts)))

    def add(self, trajectory: Trajectory, scores: Mapping[str, Array]) -> None:
        """Append scored samples."""
        self.parts.append(trajectory)
        for key, score_B in scores.items():
            self.scores[key] += score_B.tolist()

    def trajectory(self) -> Trajectory:
        """Return all samples as one trajectory, which from then on is the only copy."""
        self.parts = [Trajectory.concatenate(self.parts)]
        return self.parts[0]

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the samples into a new `folder`, in files whose names sort as they came; return all else as values."""
        folder.mkdir(parents=True)
        for number, part in enumerate(self.parts):
            tensors = {name: getattr(part, name).contiguous().cpu() for name in _TENSORS}
            save_file(tensors, folder / f"part-{number:06d}.safetensors")
        return {
            "iteration": self.number,
            "scores": self.scores,
            "credit": None if self.credit_S is None else self.credit_S.tolist(),
            "metrics": self.metrics,
            "updates": vars(self.updates),
        }

    def restore(self, folder: Path, record: Mapping[str, Any], policy: Policy, *, needs_steps: bool) -> None:
        """Take over the samples of a folder and the plain values that `save` returned."""
        conditioning, first = policy.encode(self.prompts), 0
        device = policy.device if needs_steps else "cpu"
        for file in sorted(folder.iterdir()):
            tensors = {name: value.to(device) for name, value in load_file(file).items()}
            rows = slice(first, first + len(tensors["states"]))
            self.parts.append(Trajectory(policy.kernel, conditioning.take(rows), **tensors))
            first = rows.stop
        self.scores, self.metrics = dict(record["scores"]), dict(record["metrics"])
        self.credit_S = None if record["credit"] is None else np.array(record["credit"], dtype=np.float64)
        updates = dict(record["updates"])
        updates["sums"] = [(name, total, count) for name, total, count in updates["sums"]]
        self.updates = Updates(**updates)
