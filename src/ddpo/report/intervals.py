"""How sure a mean is: standard errors and 95 % intervals, over seeds and over pairs. Never imports torch."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

LEVEL = 0.95
"""Coverage of every interval."""
FEW = 20
"""Fewer clusters than these get Student's interval: resampled, they say little but their own range, and the bootstrap's
intervals are too short (of two clusters it is the range itself, which holds the mean every second time)."""


@dataclass(frozen=True)
class Mean:
    """A mean with its standard error and interval."""

    mean: float
    error: float
    """Standard error of the mean: sample standard deviation over sqrt(n); 0 for a single value."""
    low: float
    high: float
    number: int
    """Independent values it is made of."""

    @property
    def rose(self) -> bool:
        """Whether the interval, that of a change, lies above 0; never so for a single value."""
        return self.number > 1 and self.low > 0

    @property
    def fell(self) -> bool:
        """Whether the interval, that of a change, lies below 0; never so for a single value."""
        return self.number > 1 and self.high < 0


def over_seeds(values: ArrayLike) -> Mean:
    """Return the mean of one value a seed with Student's interval, exact for few normal values.

    With one seed there is no interval: `low` and `high` are the mean.
    """
    value_N = _finite(values)
    return _student(value_N, np.ones(len(value_N)))


def bootstrap(
    values: ArrayLike, *, clusters: Sequence[Hashable] | None = None, seed: int = 0, resamples: int = 10_000
) -> Mean:
    """Return the mean of `(N,)` values, such as paired differences, with the percentile bootstrap interval.

    Values of one cluster, such as several samples of a prompt, are not independent of each other: with `clusters`,
    a label a value, whole clusters are resampled, `error` is the linearised standard error of the mean over clusters
    (their sums over their sizes), and `number` counts clusters. Without it every value is a cluster of its own.
    Fewer than `FEW` clusters have Student's interval of that error instead, a single one has none.

    Raises ValueError when there are not as many labels as values.
    """
    value_N = _finite(values)
    sum_C, size_C = _clustered(value_N, range(len(value_N)) if clusters is None else clusters)
    number = len(sum_C)
    if number < FEW:
        return _student(sum_C, size_C)
    # not scipy.stats.bootstrap: it is no shorter for sums over sizes, and keeps every resample in memory
    weights = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), size=resamples)
    low, high = np.quantile((weights @ sum_C) / (weights @ size_C), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Mean(float(value_N.mean()), _error(sum_C, size_C), float(low), float(high), number)


def standard_error(values: ArrayLike, clusters: Sequence[Hashable]) -> float:
    """Return the linearised standard error of the mean of `(N,)` values over clusters, such as drawn prompts.

    With a cluster for each value it is the sample standard deviation over sqrt(N), as it is where all are in one
    cluster, which says nothing of others; 0 for a single value.
    """
    value_N = _finite(values)
    several = len(set(clusters)) > 1
    return _error(*_clustered(value_N, clusters if several else range(len(value_N))))


def _student(sum_C: Array, size_C: Array) -> Mean:
    """Return the mean of clusters with Student's interval; of a single cluster there is none."""
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    number, mean = len(sum_C), float(sum_C.sum() / size_C.sum())
    error = _error(sum_C, size_C)
    reach = float(stdtrit(number - 1, (1 + LEVEL) / 2)) * error if number > 1 else 0.0
    return Mean(mean, error, mean - reach, mean + reach, number)


def _error(sum_C: Array, size_C: Array) -> float:
    """Return the linearised standard error of sums over sizes, 0 for a single cluster."""
    number, total = len(sum_C), size_C.sum()
    if number == 1:
        return 0.0
    residual_C = sum_C - sum_C.sum() / total * size_C
    return float(np.sqrt(number / (number - 1) * np.square(residual_C).sum()) / total)


def _clustered(value_N: Array, clusters: Sequence[Hashable]) -> tuple[Array, Array]:
    """Return the sum `(C,)` and the size `(C,)` of each cluster, in order of appearance."""
    if len(clusters) != len(value_N):
        raise ValueError(f"{len(value_N)} values but {len(clusters)} cluster labels")
    place = {label: index for index, label in enumerate(dict.fromkeys(clusters))}
    index_N = np.array([place[label] for label in clusters])
    return np.bincount(index_N, weights=value_N).astype(np.float64), np.bincount(index_N).astype(np.float64)


def _finite(values: ArrayLike) -> Array:
    value_N = np.asarray(values, dtype=np.float64)
    if value_N.ndim != 1 or len(value_N) == 0 or not np.isfinite(value_N).all():
        raise ValueError(f"expected at least one finite value in a row, got {value_N!r}")
    return value_N
