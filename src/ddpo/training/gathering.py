"""The rewards of an iteration's samples over all processes, and their statistics."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ddpo.config import TrainConfig
from ddpo.core.experience import Array
from ddpo.core.prompt import Prompt
from ddpo.report.intervals import standard_error
from ddpo.rewards import ComponentScores, LoadedReward, combine
from ddpo.runtime.errors import RewardError
from ddpo.runtime.processes import Runtime
from ddpo.training.iteration import Iteration, Metrics


@dataclass(frozen=True)
class Rewards:
    """The rewards of the K samples of an iteration that were not left out."""

    texts: list[str]
    """Their K prompts."""
    reward_K: Array
    index_K: NDArray[np.intp]
    """Their indices among all samples."""
    metrics: Metrics


def gather_rewards(
    iteration: Iteration, prompts: list[Prompt], reward: LoadedReward, config: TrainConfig, runtime: Runtime
) -> Rewards:
    """Return the rewards of all processes' samples, drawn for `prompts`, normalised and combined as one batch.

    Raises:
        RewardError: fewer than half of the samples have a score.
    """
    everyone = runtime.gather([iteration.scores])
    score_S = {key: np.array([score for scores in everyone for score in scores[key]]) for key in iteration.scores}
    scored_S = np.all([np.isfinite(values) for values in score_S.values()], axis=0)
    size = config.samples_per_prompt  # a group may have been scored in two parts, of which one failed
    index_K = np.flatnonzero(scored_S.reshape(-1, size).all(1).repeat(size))
    if 2 * len(index_K) < len(prompts):
        raise RewardError(
            f"Reward '{reward.name}' failed on {len(prompts) - len(index_K)} of {len(prompts)} samples of iteration "
            f"{iteration.number}: too many to leave out."
        )
    scores = ComponentScores(
        [prompts[index].text for index in index_K], {key: values[index_K] for key, values in score_S.items()}
    )
    reward_K = combine(reward, scores)
    metrics = reward_statistics(reward_K, index_K // size) | component_statistics(reward, scores)
    return Rewards(scores.prompts, reward_K, index_K, metrics | {"reward/skipped": len(prompts) - len(index_K)})


def reward_statistics(reward_B: Array, drawn_B: NDArray[np.intp]) -> Metrics:
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
    metrics: Metrics = {}
    for key, score_B in scores.by_key.items():
        metrics |= {f"reward/{key}/mean": float(score_B.mean()), f"reward/{key}/std": _sample_std(score_B)}
    return metrics


def _sample_std(value_B: Array) -> float:
    return float(value_B.std(ddof=1)) if len(value_B) > 1 else 0.0
