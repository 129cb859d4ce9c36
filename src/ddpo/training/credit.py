"""From rewards to what the update phase multiplies each sample by: an advantage (F.3) or a weight (C.2)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ddpo.algorithms import WeightedRegression
from ddpo.config import TrainConfig
from ddpo.core.advantages import RunningStatistics, batch_advantages, group_advantages, leave_one_out_advantages
from ddpo.core.weights import effective_samples
from ddpo.report.intervals import standard_error
from ddpo.rewards import ComponentScores, LoadedReward

Metrics = dict[str, float]


class Credit:
    """Assigns advantages or weights; keeps the running reward statistics of a run."""

    def __init__(self, config: TrainConfig, processes: int) -> None:
        self.config, self.processes = config, processes
        self.statistics = RunningStatistics(config.advantage.buffer_size, config.advantage.min_count)

    def assign(
        self, prompts: list[str], reward_B: NDArray[np.float64], own_B: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float64], Metrics]:
        """Return advantages or weights of this process's samples, where `own_B` is true, and metrics of the weights.

        `prompts` and `reward_B` `(B,)` are those of all processes.
        """
        algorithm = self.config.algorithm
        if not isinstance(algorithm, WeightedRegression):
            return self.advantages(prompts, reward_B)[own_B], {}
        weight_B = algorithm.weights(prompts, reward_B)
        kept_B = weight_B > 0
        # A process draws minibatches from the samples it kept. Scaled by how many these are of an even share, the mean
        # over processes is the mean over all kept samples.
        share = kept_B[own_B].sum() * self.processes / kept_B.sum()
        metrics = {"weight/kept": float(kept_B.mean()), "weight/effective_samples": effective_samples(weight_B)}
        return weight_B[own_B] * share, metrics

    def advantages(self, prompts: list[str], reward_B: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the advantages `(B,)` of the samples of all processes, clipped (F.3)."""
        match self.config.advantage.name:
            case "running":
                self.statistics, advantage_B = self.statistics.update(prompts, reward_B)
            case "batch":
                advantage_B = batch_advantages(reward_B)
            case "group":
                advantage_B = group_advantages(prompts, reward_B)
            case "leave-one-out":
                advantage_B = leave_one_out_advantages(prompts, reward_B)
        limit = self.config.advantage.clip
        return advantage_B if limit is None else advantage_B.clip(-limit, limit)


def reward_statistics(reward_B: NDArray[np.float64], drawn_B: NDArray[np.intp]) -> Metrics:
    """Return mean, sample standard deviation and standard error of the rewards `(B,)` of an iteration.

    Samples of one drawn prompt, whose number `drawn_B` gives, are alike: the standard error is over drawn prompts.
    """
    return {
        "reward/mean": float(reward_B.mean()),
        "reward/std": _sample_std(reward_B),
        "reward/standard_error": standard_error(reward_B, drawn_B.tolist()),
    }


def component_statistics(reward: LoadedReward, scores: ComponentScores) -> Metrics:
    """Return mean and sample standard deviation of each component's raw scores; nothing for a plain reward."""
    if list(reward.components) == [reward.key]:
        return {}
    statistics = {"mean": lambda score_B: float(score_B.mean()), "std": _sample_std}
    return {
        f"reward/{key}/{name}": statistic(score_B)
        for key, score_B in scores.by_key.items()
        for name, statistic in statistics.items()
    }


def _sample_std(value_B: NDArray[np.float64]) -> float:
    return float(value_B.std(ddof=1)) if len(value_B) > 1 else 0.0
