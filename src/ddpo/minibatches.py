"""Cutting an iteration's trajectories into updates, and updates into what fits one pass of the network (F.1)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ddpo.trajectory import Minibatch, Trajectory


def updates(
    trajectory: Trajectory,
    advantage_B: Tensor,
    *,
    number: int,
    timestep_fraction: float,
    generator: torch.Generator,
) -> Iterator[Minibatch]:
    """Yield the `number` minibatches of one inner epoch: equal parts of the shuffled samples.

    Each holds all (sample, step) pairs of its samples, every sample's steps in an order of its own, of which the
    first `timestep_fraction` is kept (at least one step).
    """
    B, L = trajectory.log_prob_BL.shape
    kept = max(1, round(L * timestep_fraction))
    order_B = torch.randperm(B, generator=generator)
    step_BK = torch.stack([torch.randperm(L, generator=generator)[:kept] for _ in range(B)])
    device = trajectory.states.device
    for sample_b in order_B.chunk(number):
        sample_N = sample_b.repeat_interleave(kept).to(device)
        yield Minibatch(trajectory, sample_N, step_BK[sample_b].flatten().to(device), advantage_B)


def passes(minibatch: Minibatch, batch_size: int) -> Iterator[Minibatch]:
    """Yield the parts of a minibatch that go through the network together, replayed on `batch_size` rows each."""
    for start in range(0, len(minibatch), batch_size):
        yield minibatch.part(start, start + batch_size, rows=batch_size)
