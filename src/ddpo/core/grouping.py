"""Samples of one prompt together: what normalising rewards per context (paper F.3) needs."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def checked_rewards(rewards: ArrayLike, prompts: Sequence[Hashable] | None = None) -> Array:
    """Return `(B,)` rewards in float64.

    Raises:
        ValueError: they are not a row of numbers, or not as many as the prompts.
    """
    reward_B = np.asarray(rewards, dtype=np.float64)
    if reward_B.ndim != 1 or (prompts is not None and len(prompts) != len(reward_B)):
        raise ValueError(f"{None if prompts is None else len(prompts)} prompts, rewards {reward_B.shape}")
    return reward_B


def groups(prompts: Sequence[Hashable]) -> Iterator[tuple[Hashable, NDArray[np.intp]]]:
    """Yield each distinct prompt with the indices of its samples, in order of first appearance."""
    members: dict[Hashable, list[int]] = {}
    for index, prompt in enumerate(prompts):
        members.setdefault(prompt, []).append(index)
    for prompt, indices in members.items():
        yield prompt, np.asarray(indices)
