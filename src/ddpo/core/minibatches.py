"""Cutting an iteration's samples into updates, and updates into what fits one pass of the network (F.1, F.2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ddpo.core.forward_process import NoiseSchedule
from ddpo.core.trajectory import Minibatch, Trajectory
from ddpo.training.clean_samples import CleanSamples


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


@dataclass(frozen=True)
class DenoisingBatch:
    """Clean samples with noise, timesteps and weights: what one evaluation of the regression loss sees."""

    clean: Tensor
    """`(N, ...)` float32: samples x_0 of the policy."""
    noise: Tensor
    """`(N, ...)` float32, standard normal."""
    timestep_N: Tensor
    """`(N,)` int64: training timesteps."""
    prompts: Sequence[str]
    """N prompts the samples were drawn for."""
    weight_N: Tensor
    """`(N,)` float32."""
    sample_N: Tensor
    """`(N,)` int64: index of each among the iteration's samples of this process."""
    step_N: Tensor
    """`(N,)` int64: the timesteps counted from the noisiest, as metrics count denoising steps."""

    def __len__(self) -> int:
        return len(self.timestep_N)

    def part(self, start: int, stop: int) -> DenoisingBatch:
        """Return the samples from `start` up to `stop`."""
        rows = slice(start, stop)
        return replace(
            self,
            clean=self.clean[rows],
            noise=self.noise[rows],
            timestep_N=self.timestep_N[rows],
            prompts=self.prompts[rows],
            weight_N=self.weight_N[rows],
            sample_N=self.sample_N[rows],
            step_N=self.step_N[rows],
        )


def denoising_updates(
    samples: CleanSamples,
    prompts: Sequence[str],
    weight_B: Tensor,
    schedule: NoiseSchedule,
    *,
    number: int,
    size: int,
    generator: torch.Generator,
) -> Iterator[DenoisingBatch]:
    """Yield `number` minibatches of `size` noised samples: uniform timesteps, fresh noise (section C.2).

    The samples whose weight is above 0 are gone through in shuffled passes, as often as the updates need; where there
    are none, all are, without effect: other processes may have some and wait. Tensors are on `weight_B`'s device.
    """
    weighed_K = (weight_B > 0).nonzero().flatten().cpu()
    kept_K = weighed_K if len(weighed_K) else torch.arange(len(weight_B))
    order = kept_K[:0]
    for _ in range(number):
        while len(order) < size:
            order = torch.cat([order, kept_K[torch.randperm(len(kept_K), generator=generator)]])
        index_N, order = order[:size], order[size:]
        clean = samples.take(index_N)
        noise = torch.randn(clean.shape, generator=generator)
        timestep_N = torch.randint(schedule.training_timesteps, (size,), generator=generator)
        device = weight_B.device
        yield DenoisingBatch(
            clean.to(device),
            noise.to(device),
            timestep_N.to(device),
            [prompts[index] for index in index_N.tolist()],
            weight_B[index_N.to(device)],
            index_N.to(device),
            (schedule.training_timesteps - 1 - timestep_N).to(device),
        )


def passes(minibatch: Minibatch | DenoisingBatch, batch_size: int) -> Iterator[Minibatch | DenoisingBatch]:
    """Yield the parts of a minibatch that go through the network together; pairs are replayed on `batch_size` rows."""
    for start in range(0, len(minibatch), batch_size):
        if isinstance(minibatch, Minibatch):
            yield minibatch.part(start, start + batch_size, rows=batch_size)
        else:
            yield minibatch.part(start, start + batch_size)
