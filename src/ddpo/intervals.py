"""How sure a mean is: standard errors and 95 % intervals, over seeds and over pairs. Never imports torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

LEVEL = 0.95
"""Coverage of every interval."""


@dataclass(frozen=True)
class Mean:
    """A mean with its standard error and interval."""

    mean: float
    error: float
    """Standard error: sample standard deviation over sqrt(n); 0 for a single value."""
    low: float
    high: float
    number: int
    """Independent values it is made of."""

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves 0 out; never so for a single value."""
        return self.number > 1 and (self.low > 0 or self.high < 0)


def over_seeds(values: ArrayLike) -> Mean:
    """Return the mean of one value a seed with Student's interval, exact for few normal values.

    With one seed there is no interval: `low` and `high` are the mean.
    """
    value_N = _finite(values)
    if len(value_N) == 1:
        return Mean(float(value_N[0]), 0.0, float(value_N[0]), float(value_N[0]), 1)
    from scipy.stats import t

    mean, error = float(value_N.mean()), float(value_N.std(ddof=1) / np.sqrt(len(value_N)))
    reach = float(t.ppf((1 + LEVEL) / 2, len(value_N) - 1)) * error
    return Mean(mean, error, mean - reach, mean + reach, len(value_N))


def bootstrap(values: ArrayLike, *, seed: int = 0, resamples: int = 10_000) -> Mean:
    """Return the mean of `(N,)` values, such as paired differences, with the percentile bootstrap interval."""
    value_N = _finite(values)
    if len(value_N) == 1:
        return over_seeds(value_N)
    generator = np.random.default_rng(seed)
    weights = generator.multinomial(len(value_N), np.full(len(value_N), 1 / len(value_N)), size=resamples)
    means = weights @ value_N / len(value_N)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    error = float(value_N.std(ddof=1) / np.sqrt(len(value_N)))
    return Mean(float(value_N.mean()), error, float(low), float(high), len(value_N))


def _finite(values: ArrayLike) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    value_N = np.asarray(values, dtype=np.float64)
    if value_N.ndim != 1 or len(value_N) == 0 or not np.isfinite(value_N).all():
        raise ValueError(f"expected at least one finite value in a row, got {value_N!r}")
    return value_N
