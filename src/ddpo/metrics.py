"""Metrics of the update phase: values of (sample, step) pairs averaged overall and per stretch of the denoising run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ddpo.objectives import Metrics

BUCKETS = 5
"""Stretches of the denoising run that metrics are also given for, 1 the noisiest."""
AVERAGED = ("clip_fraction", "kl/step")
"""Metrics of pairs that are averaged; docs/metrics.md explains them."""


class PairMetrics:
    """Collects the metrics of an iteration's pairs without waiting for the device."""

    def __init__(self, steps: int) -> None:
        """`steps` is L, the number of denoising steps with a likelihood."""
        self._steps = steps
        self._seen: list[tuple[torch.Tensor, Metrics]] = []

    def add(self, step_N: torch.Tensor, metrics: Metrics) -> None:
        """Record the metrics `(N,)` of pairs at steps `step_N` `(N,)`."""
        self._seen.append((step_N, {name: value.detach() for name, value in metrics.items()}))

    def step_of_largest_ratio_error(self) -> tuple[float, int]:
        """Return the largest |ratio - 1| recorded and its step index; NaN counts as infinite."""
        error = (np.abs(self._column("ratio") - 1)).astype(np.float64)
        error = np.where(np.isnan(error), np.inf, error)
        worst = int(error.argmax())
        return float(error[worst]), int(self._steps_N()[worst])

    def sums(self) -> list[tuple[str, float, int]]:
        """Return `(name, sum, count)` of every averaged metric, overall and per bucket."""
        bucket_N = self._steps_N() * min(BUCKETS, self._steps) // self._steps
        rows = []
        for name in (name for name in AVERAGED if name in self._seen[0][1]):
            value_N = self._column(name).astype(np.float64)
            rows.append((name, float(value_N.sum()), len(value_N)))
            for bucket in np.unique(bucket_N):
                inside = value_N[bucket_N == bucket]
                rows.append((f"{name}/bucket_{bucket + 1}", float(inside.sum()), len(inside)))
        return rows

    def _column(self, name: str) -> NDArray[np.float32]:
        return np.asarray(torch.cat([metrics[name] for _, metrics in self._seen]).float().cpu())

    def _steps_N(self) -> NDArray[np.int64]:
        return np.asarray(torch.cat([step_N for step_N, _ in self._seen]).cpu())


def averages(rows: Sequence[tuple[str, float, int]]) -> dict[str, float]:
    """Return the mean of each metric from the sums of all processes."""
    totals: dict[str, tuple[float, int]] = {}
    for name, total, count in rows:
        before, number = totals.get(name, (0.0, 0))
        totals[name] = (before + total, number + count)
    return {name: total / count for name, (total, count) in sorted(totals.items())}
