"""Weights of reward-weighted regression, as pure functions in float64 (paper sections C.2, F.2, F.3).

`prompts` are whatever identifies the context, compared by equality; None: all samples are one pool.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ddpo.core.grouping import Array, checked_rewards, groups


def exponential_weights(prompts: Sequence[Hashable] | None, rewards: ArrayLike, *, beta: float) -> Array:
    """Return `(B,)` w_RWR = exp(beta r) / Z: the softmax of `(B,)` rewards over a prompt's samples, times their count.

    `beta` is the inverse temperature in 1 / the reward's unit; 0 weighs all alike. A prompt's only sample has weight 1.
    """
    reward_B = checked_rewards(rewards, prompts)
    weight_B = np.empty_like(reward_B)
    for indices in _pools(prompts, len(reward_B)):
        exponent = beta * reward_B[indices]
        unnormalised = np.exp(exponent - exponent.max())
        weight_B[indices] = unnormalised / unnormalised.mean()
    return weight_B


def percentile_weights(prompts: Sequence[Hashable] | None, rewards: ArrayLike, *, percentile: float) -> Array:
    """Return `(B,)` w_sparse = 1[r >= C]: C discards the bottom `percentile` (0 to 1) of each prompt's samples.

    C is the quantile with linear interpolation (F.2, F.3). Samples at C are kept, so every prompt keeps at least its
    best one, and all of them where they do not differ. Kept samples have weight 1, the others 0.
    """
    reward_B = checked_rewards(rewards, prompts)
    weight_B = np.empty_like(reward_B)
    for indices in _pools(prompts, len(reward_B)):
        pool = reward_B[indices]
        weight_B[indices] = pool >= np.quantile(pool, percentile)
    return weight_B


def effective_samples(weights: ArrayLike) -> float:
    """Return Kish's effective number of samples, (sum w)^2 / sum w^2."""
    weight_B = np.asarray(weights, dtype=np.float64)
    return float(weight_B.sum() ** 2 / np.square(weight_B).sum())


def _pools(prompts: Sequence[Hashable] | None, number: int) -> Iterator[NDArray[np.intp]]:
    """Yield the indices of the samples that are weighed against each other."""
    if prompts is None:
        yield np.arange(number)
    else:
        yield from (indices for _, indices in groups(prompts))
