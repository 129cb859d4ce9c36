"""Metrics of the update phase: values of (sample, step) pairs averaged overall and per stretch of the denoising run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ddpo.core.minibatches import Batch
from ddpo.core.objectives import LossMetrics

BUCKETS = 5
"""Stretches of the denoising run that metrics are also given for, 1 the noisiest."""
LOSS = "loss"
"""The loss of the microbatch a pair was in; looked at, not averaged."""
RATIO = "ratio"
"""The importance ratio, by which replay is checked; its average says nothing."""


class PairMetrics:
    """Collects the metrics of an update's pairs without waiting for the device."""

    def __init__(self) -> None:
        self._seen: list[tuple[Batch, LossMetrics]] = []

    def add(self, pairs: Batch, metrics: LossMetrics) -> None:
        """Record the metrics of pairs, `(N,)` each or one number for all."""
        values = {name: torch.as_tensor(value).detach().expand(len(pairs)) for name, value in metrics.items()}
        self._seen.append((pairs, values))

    @property
    def has_ratio(self) -> bool:
        """Whether the algorithm gives importance ratios."""
        return RATIO in self._seen[0][1]

    def not_finite(self) -> list[tuple[int, float]]:
        """Return `(sample index, time)` of the pairs one of whose metrics is NaN or infinite.

        Where that is `loss` alone, which is one number a microbatch, it cannot be told which of its pairs it is from.
        """
        own = [np.isfinite(self._column(name)) for name in self._seen[0][1] if name != LOSS]
        loss_N = np.isfinite(self._column(LOSS))
        finite_N = np.all(own, axis=0) if own else loss_N
        sample_N = np.asarray(torch.cat([pairs.sample_N for pairs, _ in self._seen]).cpu())
        broken = np.flatnonzero(~finite_N) if not finite_N.all() else np.flatnonzero(~loss_N)
        time_N = self._times_N()
        return [(int(sample_N[n]), float(time_N[n])) for n in broken]

    def largest_ratio_errors(self) -> list[tuple[float, float, int]]:
        """Return the largest |ratio - 1| recorded in each bucket: `(error, time, bucket)`; NaN is infinite."""
        time_N, bucket_N = self._times_N(), self._buckets_N()
        error_N = np.abs(self._column(RATIO) - 1).astype(np.float64)
        error_N = np.where(np.isnan(error_N), np.inf, error_N)
        rows = []
        for bucket in np.unique(bucket_N):
            worst = int(np.where(bucket_N == bucket, error_N, -1).argmax())
            rows.append((float(error_N[worst]), float(time_N[worst]), int(bucket)))
        return rows

    def sums(self) -> list[tuple[str, float, int]]:
        """Return `(name, sum, count)` of every metric but loss and ratio, overall and per bucket.

        Nothing where a pair is not finite: its update is skipped, and no average could be made with it.
        """
        if self.not_finite():
            return []
        bucket_N = self._buckets_N()
        rows = []
        for name in (name for name in self._seen[0][1] if name not in (LOSS, RATIO)):
            value_N = self._column(name).astype(np.float64)
            rows.append((name, float(value_N.sum()), len(value_N)))
            for bucket in np.unique(bucket_N):
                inside = value_N[bucket_N == bucket]
                rows.append((f"{name}/bucket_{bucket}", float(inside.sum()), len(inside)))
        return rows

    def _column(self, name: str) -> NDArray[np.float32]:
        return np.asarray(torch.cat([metrics[name] for _, metrics in self._seen]).float().cpu())

    def _buckets_N(self) -> NDArray[np.int64]:
        """Return the bucket of each pair, 1 the noisiest."""
        return np.asarray(torch.cat([pairs.stretch_N(BUCKETS) for pairs, _ in self._seen]).cpu())

    def _times_N(self) -> NDArray[np.float64]:
        return np.asarray(torch.cat([pairs.time_N for pairs, _ in self._seen]).double().cpu())


def averages(rows: Sequence[tuple[str, float, int]]) -> dict[str, float]:
    """Return the mean of each metric from the sums of all processes."""
    totals: dict[str, tuple[float, int]] = {}
    for name, total, count in rows:
        before, number = totals.get(name, (0.0, 0))
        totals[name] = (before + total, number + count)
    return {name: total / count for name, (total, count) in sorted(totals.items())}
