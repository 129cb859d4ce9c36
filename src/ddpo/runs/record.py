"""What a run left behind, as plain data: the input of the report page. Reading never trusts the files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LARGEST = 1e100
"""Numbers beyond this are not taken for measurements: sums of their squares would overflow."""


@dataclass(frozen=True)
class FixedSample:
    """One fixed sample at one evaluation."""

    prompt: str
    seed: str
    rewards: dict[str, float]
    """Finite scores by the reward's key."""


@dataclass(frozen=True)
class Tiles:
    """Where the samples of an evaluation are seen: a sheet of equal tiles, row by row, without margins."""

    path: Path
    columns: int
    width: int
    """Pixels of one tile."""
    height: int


@dataclass(frozen=True)
class EvaluationRecord:
    """The fixed samples at one moment of a run."""

    iteration: int
    """Iterations trained before; 0 is the base model."""
    samples: list[FixedSample]
    trained_reward: str | None
    labels: dict[str, str]
    """Words with the unit for each reward."""
    tiles: Tiles | None
    """None: there is nothing to see."""
    diversity: float | None
    """Mean root mean square difference of two samples, scale 0 to 1."""
    kl_to_base: float | None
    """Mean divergence of the trajectories from the base model, nats."""
    not_measured: list[str] = field(default_factory=list)
    """Why other rewards than the trained one are measured no more."""

    @classmethod
    def parse(cls, data: object, folder: Path) -> EvaluationRecord:
        """Read the record of the fixed samples (docs/metrics.md); `folder` holds the sheet of tiles.

        Raises:
            ValueError: it holds no iteration or no samples; everything else may be missing.
        """
        if not isinstance(data, Mapping):
            raise ValueError("it is not a JSON object")
        iteration, samples = finite(data.get("iteration")), data.get("samples")
        if iteration is None or not isinstance(samples, list) or not samples:
            raise ValueError("it has no iteration or no samples")
        trained, reasons = data.get("trained_reward"), data.get("not_measured")
        return cls(
            int(iteration),
            [_sample(sample) for sample in samples],
            None if trained is None else str(trained),
            {str(key): str(label) for key, label in _mapping(data.get("labels")).items()},
            _tiles(_mapping(data.get("tiles")), folder, len(samples)),
            finite(data.get("diversity")),
            finite(data.get("kl_to_base")),
            [str(reason) for reason in reasons] if isinstance(reasons, list) else [],
        )

    @property
    def identities(self) -> list[tuple[str, str]]:
        """Prompt and seed of every sample: what stays the same through a run."""
        return [(sample.prompt, sample.seed) for sample in self.samples]

    @property
    def rewards(self) -> list[str]:
        """Keys of the rewards that every sample has, the trained one first."""
        names = [name for name in self.samples[0].rewards if all(name in sample.rewards for sample in self.samples)]
        return sorted(names, key=lambda name: name != self.trained_reward)

    def scores(self, reward: str) -> Floats | None:
        """Return the scores `(B,)` of one reward, or None where a sample lacks it."""
        if reward not in self.rewards:
            return None
        return np.array([sample.rewards[reward] for sample in self.samples])


@dataclass(frozen=True)
class RunRecord:
    """Everything the report shows of one run."""

    name: str
    """The folder's name."""
    config: dict[str, Any]
    config_text: str
    """The configuration as it stands in the file."""
    metrics: list[dict[str, Any]]
    """One entry an iteration, keys from docs/metrics.md, any of which may be missing."""
    evaluations: list[EvaluationRecord] = field(default_factory=list)
    """In order of their iterations, all of the same prompts and seeds."""
    problems: list[str] = field(default_factory=list)
    """Sentences on what in the folder could not be read."""
    dimensions: int | None = None
    """Scalars in one sample of the model, which turn a clip in nats into one of the ratio; None: not known."""

    @property
    def planned(self) -> int | None:
        """Iterations in the configuration."""
        value = finite(self.config.get("iterations"))
        return None if value is None else int(value)

    @cached_property
    def iterations(self) -> list[int]:
        """The number of each entry of `metrics`; its place in the file where it says none."""
        numbers = [finite(row.get("iteration")) for row in self.metrics]
        return [index + 1 if number is None else int(number) for index, number in enumerate(numbers)]

    @property
    def done(self) -> int:
        """Iterations finished."""
        return max(self.iterations, default=0)

    @cached_property
    def counts_queries(self) -> bool:
        """Whether every entry of `metrics` says how many reward queries were made."""
        return all(finite(row.get("reward_queries")) is not None for row in self.metrics)

    @cached_property
    def axis(self) -> list[float]:
        """Reward queries of each entry of `metrics`, or iterations where those are not counted."""
        if self.counts_queries:
            return [float(row["reward_queries"]) for row in self.metrics]
        return [float(number) for number in self.iterations]

    def position(self, iteration: int) -> float:
        """Return where on `axis` an evaluation after `iteration` iterations lies."""
        if not self.metrics:
            return float(iteration)
        return float(np.interp(iteration, [0, *self.iterations], [0.0, *self.axis]))

    @cached_property
    def _columns(self) -> dict[str, tuple[list[float], list[float]]]:
        """Positions and finite values of every metric, read once: long runs have thousands of rows."""
        columns: dict[str, tuple[list[float], list[float]]] = {}
        for x, row in zip(self.axis, self.metrics, strict=True):
            for key, entry in row.items():
                places, values = columns.setdefault(key, ([], []))
                if (value := finite(entry)) is not None:
                    places.append(x)
                    values.append(value)
        return columns

    def series(self, key: str) -> tuple[list[float], list[float]]:
        """Return positions on `axis` and finite values of one metric, leaving out iterations without it."""
        return self._columns.get(key, ([], []))

    @property
    def keys(self) -> list[str]:
        """Every key in `metrics`, in order of appearance."""
        return list(self._columns)

    @property
    def trained_reward(self) -> str | None:
        """Key of the trained reward, from the newest evaluation that says it, or from the configuration."""
        reward = self.config.get("reward")
        configured = reward.get("name") if isinstance(reward, Mapping) else reward
        known = [name for each in self.evaluations if (name := each.trained_reward) is not None]
        return str(known[-1] if known else configured) if known or configured is not None else None

    def label(self, reward: str) -> str:
        """Return words with the unit for a reward."""
        return next((known.labels[reward] for known in reversed(self.evaluations) if reward in known.labels), reward)


def comparable(evaluations: Sequence[EvaluationRecord]) -> tuple[list[EvaluationRecord], list[str]]:
    """Return the evaluations of the newest one's prompts and seeds by iteration, and sentences on those left out."""
    ordered = sorted(evaluations, key=lambda evaluation: evaluation.iteration)
    kept = [each for each in ordered if each.identities == ordered[-1].identities]
    others = [str(each.iteration) for each in ordered if each not in kept]
    told = f"The fixed samples of iteration {', '.join(others)} have other prompts or seeds and are left out."
    return kept, [told] if others else []


def finite(value: object) -> float | None:
    """Return a finite number as float; None for anything else, also for one beyond `LARGEST`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
        return None
    return float(value)


def _mapping(data: object) -> Mapping[Any, Any]:
    return data if isinstance(data, Mapping) else {}


def _sample(data: object) -> FixedSample:
    if not isinstance(data, Mapping):
        raise ValueError("a sample is not a JSON object")
    scores = {str(key): finite(value) for key, value in _mapping(data.get("rewards")).items()}
    known = {key: value for key, value in scores.items() if value is not None}
    return FixedSample(str(data.get("prompt", "")), str(data.get("seed", "")), known)


def _tiles(data: Mapping[Any, Any], folder: Path, number: int) -> Tiles | None:
    """Return the sheet if it is described and there; its file is looked for in `folder` only."""
    path = folder / Path(str(data.get("file", ""))).name
    sizes = [int(size) for key in ("columns", "width", "height") if (size := finite(data.get(key))) and size >= 1]
    if not path.is_file() or len(sizes) < 3:
        return None
    return Tiles(path, min(sizes[0], number), *sizes[1:])
