"""Advantages: rewards normalised per prompt, as pure functions in float64 (paper F.3).

`prompts` are whatever identifies the context, compared by equality: the text itself, never its token ids.
Rewards that do not differ give advantage 0, as does a group of one; none of the functions returns NaN.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from ddpo.core.grouping import Array, checked_rewards, groups

_EPSILON = 1e-6
"""Added to the standard deviation, in the reward's unit, as the public codes do."""


def _normalise(reward_B: Array, pool: Array) -> Array:
    """Return (reward - mean) / (std + epsilon) with the population statistics of `pool`; 0 where it is constant."""
    if pool.size < 2 or np.ptp(pool) == 0:
        return np.zeros_like(reward_B)
    normalised: Array = (reward_B - pool.mean()) / (pool.std() + _EPSILON)
    return normalised


def batch_advantages(rewards: ArrayLike) -> Array:
    """Normalise `(B,)` rewards by the mean and standard deviation of the whole batch."""
    reward_B = checked_rewards(rewards)
    return _normalise(reward_B, reward_B)


def group_advantages(prompts: Sequence[Hashable], rewards: ArrayLike) -> Array:
    """Normalise `(B,)` rewards by the mean and standard deviation of their prompt's group in the batch."""
    reward_B = checked_rewards(rewards, prompts)
    advantage_B = np.zeros_like(reward_B)
    for _, indices in groups(prompts):
        advantage_B[indices] = _normalise(reward_B[indices], reward_B[indices])
    return advantage_B


def leave_one_out_advantages(prompts: Sequence[Hashable], rewards: ArrayLike) -> Array:
    """Subtract from each reward the mean of the others in its group (Kool et al. 2019); unscaled."""
    reward_B = checked_rewards(rewards, prompts)
    advantage_B = np.zeros_like(reward_B)
    for _, indices in groups(prompts):
        k, group = len(indices), reward_B[indices]
        if k > 1 and np.ptp(group) > 0:
            advantage_B[indices] = (group - group.mean()) * k / (k - 1)
    return advantage_B


@dataclass(frozen=True)
class RunningStatistics:
    """The latest rewards of every prompt seen: the state of the paper's per-prompt normalisation (F.3)."""

    buffer_size: int = 32
    """Rewards kept a prompt, oldest dropped first."""
    min_count: int = 16
    """Rewards a prompt needs before its own statistics replace those of the batch."""
    history: Mapping[Hashable, tuple[float, ...]] = field(default_factory=dict)

    def update(self, prompts: Sequence[Hashable], rewards: ArrayLike) -> tuple[RunningStatistics, Array]:
        """Append `(B,)` rewards to their prompts' buffers and return the new state and the `(B,)` advantages.

        The new rewards count in the statistics that normalise them. A prompt with fewer than `min_count`
        rewards is normalised by the batch's own mean and standard deviation.
        """
        reward_B = checked_rewards(rewards, prompts)
        advantage_B = np.zeros_like(reward_B)
        history = dict(self.history)
        for prompt, indices in groups(prompts):
            history[prompt] = (*history.get(prompt, ()), *reward_B[indices].tolist())[-self.buffer_size :]
            enough = len(history[prompt]) >= self.min_count
            pool = np.asarray(history[prompt]) if enough else reward_B
            advantage_B[indices] = _normalise(reward_B[indices], pool)
        return RunningStatistics(self.buffer_size, self.min_count, history), advantage_B
