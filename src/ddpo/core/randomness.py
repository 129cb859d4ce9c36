"""Randomness as an argument: every draw has a seed computed from what it is for.

A sample's seed is f(run seed, iteration, sample index), so any process or a resumed run can draw it again.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What a seed is for; streams never share numbers."""

    SAMPLE = 0
    SHUFFLE = 1
    FIXED_SAMPLE = 2
    WEIGHTS = 3
    DENOISING = 4
    COMPARISON = 5


def derive_seed(run_seed: int, stream: Stream, *position: int) -> int:
    """Return a 32-bit seed, all that torch's CPU generator takes in, for one position of a stream of the run."""
    return int(np.random.SeedSequence([run_seed, int(stream), *position]).generate_state(1, np.uint32)[0])


def sample_seeds(run_seed: int, stream: Stream, iteration: int, indices: Iterable[int]) -> list[int]:
    """Return the seed of each sample of an iteration."""
    return [derive_seed(run_seed, stream, iteration, index) for index in indices]
