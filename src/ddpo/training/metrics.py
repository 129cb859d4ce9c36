"""Metrics of the update phase: values of (sample, step) pairs averaged overall and per stretch of the denoising run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ddpo.core.objectives import Metrics

BUCKETS = 5
"""Stretches of the denoising run that metrics are also given for, 1 the noisiest."""
AVERAGED = ("clip_fraction", "kl/step", "denoising_loss")
"""Metrics of pairs that are averaged; docs/metrics.md explains them."""
LOSS = "loss"
"""The loss of the microbatch a pair was in."""


class Pairs(Protocol):
    """What a loss was evaluated on: N pairs of a sample and a step."""

    @property
    def sample_N(self) -> torch.Tensor:
        """`(N,)` int64: index of the sample."""

    @property
    def step_N(self) -> torch.Tensor:
        """`(N,)` int64: index of the denoising step, 0 for the noisiest."""


class PairMetrics:
    """Collects the metrics of an iteration's pairs without waiting for the device."""

    def __init__(self, steps: int) -> None:
        """`steps` is L, the number of denoising steps with a likelihood."""
        self._steps = steps
        self._seen: list[tuple[torch.Tensor, torch.Tensor, Metrics]] = []

    def add(self, pairs: Pairs, metrics: Metrics) -> None:
        """Record the metrics `(N,)` of pairs."""
        values = {name: value.detach() for name, value in metrics.items()}
        self._seen.append((pairs.sample_N, pairs.step_N, values))

    def not_finite(self) -> list[tuple[int, int]]:
        """Return `(sample index, step index)` of the pairs one of whose metrics is NaN or infinite.

        Where that is `loss` alone, which is one number a microbatch, it cannot be told which of its pairs it is from.
        """
        own = [np.isfinite(self._column(name)) for name in self._seen[0][2] if name != LOSS]
        finite_N, loss_N = np.all(own, axis=0), np.isfinite(self._column(LOSS))
        sample_N = np.asarray(torch.cat([sample_N for sample_N, _, _ in self._seen]).cpu())
        broken = np.flatnonzero(~finite_N) if not finite_N.all() else np.flatnonzero(~loss_N)
        return [(int(sample_N[n]), int(self._steps_N()[n])) for n in broken]

    def largest_ratio_errors(self) -> list[tuple[float, int, int]]:
        """Return the largest |ratio - 1| recorded in each bucket: `(error, step index, bucket)`; NaN is infinite."""
        step_N, bucket_N = self._steps_N(), self._buckets_N()
        error_N = np.abs(self._column("ratio") - 1).astype(np.float64)
        error_N = np.where(np.isnan(error_N), np.inf, error_N)
        rows = []
        for bucket in np.unique(bucket_N):
            worst = int(np.where(bucket_N == bucket, error_N, -1).argmax())
            rows.append((float(error_N[worst]), int(step_N[worst]), int(bucket)))
        return rows

    def sums(self) -> list[tuple[str, float, int]]:
        """Return `(name, sum, count)` of every averaged metric, overall and per bucket.

        Nothing where a pair is not finite: its update is skipped, and no average could be made with it.
        """
        if self.not_finite():
            return []
        bucket_N = self._buckets_N()
        rows = []
        for name in (name for name in AVERAGED if name in self._seen[0][2]):
            value_N = self._column(name).astype(np.float64)
            rows.append((name, float(value_N.sum()), len(value_N)))
            for bucket in np.unique(bucket_N):
                inside = value_N[bucket_N == bucket]
                rows.append((f"{name}/bucket_{bucket}", float(inside.sum()), len(inside)))
        return rows

    def _column(self, name: str) -> NDArray[np.float32]:
        return np.asarray(torch.cat([metrics[name] for _, _, metrics in self._seen]).float().cpu())

    def _buckets_N(self) -> NDArray[np.int64]:
        """Return the bucket of each pair, 1 the noisiest."""
        return 1 + self._steps_N() * min(BUCKETS, self._steps) // self._steps

    def _steps_N(self) -> NDArray[np.int64]:
        return np.asarray(torch.cat([step_N for _, step_N, _ in self._seen]).cpu())


def averages(rows: Sequence[tuple[str, float, int]]) -> dict[str, float]:
    """Return the mean of each metric from the sums of all processes."""
    totals: dict[str, tuple[float, int]] = {}
    for name, total, count in rows:
        before, number = totals.get(name, (0.0, 0))
        totals[name] = (before + total, number + count)
    return {name: total / count for name, (total, count) in sorted(totals.items())}
