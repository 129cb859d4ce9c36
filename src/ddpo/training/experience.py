"""What an iteration has collected: the samples of this process, their scores, and what the updates are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddpo.core.policy import Policy
from ddpo.core.trajectory import Trajectory
from ddpo.prompts import Prompt
from ddpo.training.clean_samples import CleanSamples
from ddpo.training.scoring import Scores

Metrics = dict[str, float]
Progress = Callable[[str, int, int], None]
"""Told the phase, and how much of it is done out of how much."""
_TENSORS = ("states", "means", "log_prob_BL")
"""What is stored of a trajectory; its conditioning comes from the prompts again."""


class Trajectories:
    """Trajectories in the order they came."""

    def __init__(self) -> None:
        self._parts: list[Trajectory] = []

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def add(self, part: Trajectory) -> None:
        """Append some trajectories."""
        self._parts.append(part)

    def joined(self) -> Trajectory:
        """Return all of them as one, which from then on is the only copy."""
        self._parts = [Trajectory.concatenate(self._parts)]
        return self._parts[0]

    def save(self, folder: Path) -> None:
        """Write all trajectories into a new `folder`, in files whose names sort as they came."""
        folder.mkdir(parents=True)
        for number, part in enumerate(self._parts):
            tensors = {name: getattr(part, name).contiguous().cpu() for name in _TENSORS}
            save_file(tensors, folder / f"part-{number:06d}.safetensors")

    def restore(self, folder: Path, policy: Policy, prompts: list[str]) -> None:
        """Append the trajectories of a folder that `save` wrote; `prompts` are those of all samples to be collected."""
        for file in sorted(folder.iterdir()):
            tensors = {name: value.to(policy.device) for name, value in load_file(file).items()}
            first, number = len(self), len(tensors["states"])
            self.add(Trajectory(policy.encode(prompts[first : first + number]), **tensors))


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
class Experience:
    """An iteration in the making: complete once every sample has its score and its advantage or weight."""

    iteration: int
    prompts: list[Prompt]
    """Of this process's samples, drawn or not yet."""
    first: int
    """Index of the first of them among those of all processes."""
    samples: Trajectories | CleanSamples
    """The samples that are scored, in order: their trajectories, or x_0 alone where the algorithm is a regression."""
    scores: dict[str, list[float]]
    """Their scores by component; NaN where the group is left out."""
    credit_B: Tensor | None = None
    """`(B,)` float32: their advantages, or their weights in a regression, once all are scored."""
    metrics: Metrics = field(default_factory=dict)
    """Reward statistics over all processes, and seconds by phase."""
    updates: Updates = field(default_factory=Updates)

    @property
    def texts(self) -> list[str]:
        """The prompts' texts."""
        return [prompt.text for prompt in self.prompts]

    def add(self, trajectory: Trajectory, scores: Scores) -> None:
        """Append scored samples."""
        if isinstance(self.samples, Trajectories):
            self.samples.add(trajectory)
        else:
            self.samples.add(trajectory.final)
        for key, score_B in scores.items():
            self.scores[key] += score_B.tolist()

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the samples into a new `folder`; return all else as plain values."""
        self.samples.save(folder)
        return {
            "iteration": self.iteration,
            "scores": self.scores,
            "credit": None if self.credit_B is None else self.credit_B.tolist(),  # float32 is exact as a float
            "metrics": self.metrics,
            "updates": vars(self.updates),
        }

    def restore(self, folder: Path, record: Mapping[str, Any], policy: Policy) -> None:
        """Take over the samples of a folder and the plain values that `save` returned."""
        if isinstance(self.samples, Trajectories):
            self.samples.restore(folder, policy, self.texts)
        else:
            self.samples.restore(folder)
        self.scores, self.metrics = dict(record["scores"]), dict(record["metrics"])
        credit = record["credit"]
        self.credit_B = None if credit is None else torch.tensor(credit, dtype=torch.float32, device=policy.device)
        updates = dict(record["updates"])
        updates["sums"] = [(name, total, count) for name, total, count in updates["sums"]]
        self.updates = Updates(**updates)
