"""Cutting an iteration's samples into updates, and updates into what fits one pass of the network (F.1, F.2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor

from ddpo.core.conditioning import Conditioning
from ddpo.core.forward_process import ForwardProcess
from ddpo.core.trajectory import Pairs, Trajectory


class Batch(Protocol):
    """N (sample, time) pairs that a loss is evaluated on; a minibatch is one, and so are the parts it splits into."""

    @property
    def sample_N(self) -> Tensor:
        """`(N,)` int64: index of the sample among the iteration's samples of this process."""

    @property
    def time_N(self) -> Tensor:
        """`(N,)`: what the network is told as time."""

    def __len__(self) -> int: ...

    def stretch_N(self, number: int) -> Tensor:
        """Return in which of `number` equal stretches of the denoising run each pair lies, `(N,)`, 1 the noisiest."""

    def split(self, batch_size: int) -> Iterator[Self]:
        """Yield the parts of at most `batch_size` pairs that go through the network together."""


def shuffled_pairs(
    trajectory: Trajectory,
    advantage_B: Tensor,
    *,
    number: int,
    timestep_fraction: float = 1.0,
    generator: torch.Generator,
) -> Iterator[Pairs]:
    """Yield the `number` minibatches of one inner epoch: equal parts of the shuffled samples.

    Each holds (sample, step) pairs of its samples: of every sample's steps, in an order of its own, the first
    `timestep_fraction` is kept (at least one step). They are sorted by step, so that what goes through the network
    together is alike: a policy may treat steps differently.
    """
    B, L = trajectory.log_prob_BL.shape
    kept = max(1, round(L * timestep_fraction))
    order_B = torch.randperm(B, generator=generator)
    index_BK = torch.stack([torch.randperm(L, generator=generator)[:kept] for _ in range(B)])
    device = trajectory.states.device
    for sample_b in order_B.chunk(number):
        index_N, order_N = index_BK[sample_b].flatten().sort(stable=True)
        sample_N = sample_b.repeat_interleave(kept)[order_N]
        yield Pairs(trajectory, sample_N.to(device), index_N.to(device), advantage_B)


@dataclass(frozen=True)
class NoisedSamples:
    """Clean samples with noise, times and weights: what one evaluation of a regression loss sees."""

    clean: Tensor
    """`(N, ...)` float32: samples x_0 of the policy."""
    noise: Tensor
    """`(N, ...)` float32, standard normal."""
    time_N: Tensor
    """`(N,)`: times of the forward process."""
    cleanness_N: Tensor
    """`(N,)` float64: the same from 0, the noisiest, to below 1."""
    conditioning: Conditioning
    """Of the samples."""
    weight_N: Tensor
    """`(N,)` float32."""
    sample_N: Tensor
    """`(N,)` int64: index of each among the iteration's samples of this process."""

    def __len__(self) -> int:
        return len(self.time_N)

    def stretch_N(self, number: int) -> Tensor:
        """Return in which of `number` equal stretches of the denoising run each sample lies, `(N,)` int64 from 1."""
        return 1 + (self.cleanness_N * number + 1e-9).long()

    def split(self, batch_size: int) -> Iterator[NoisedSamples]:
        """Yield the parts that go through the network together."""
        for start in range(0, len(self), batch_size):
            rows = slice(start, start + batch_size)
            tensors = ("clean", "noise", "time_N", "cleanness_N", "weight_N", "sample_N")
            parts = {name: getattr(self, name)[rows] for name in tensors}
            yield replace(self, conditioning=self.conditioning.take(rows), **parts)


def noised_samples(
    clean: Tensor,
    conditioning: Conditioning,
    weight_B: Tensor,
    process: ForwardProcess,
    *,
    number: int,
    size: int,
    generator: torch.Generator,
) -> Iterator[NoisedSamples]:
    """Yield `number` minibatches of `size` noised samples: times as in training, fresh noise (section C.2).

    `clean` `(B, ...)` is on the CPU, `weight_B` `(B,)` on the policy's device. The samples whose weight is not 0 are
    gone through in shuffled passes, as often as the updates need; where there are none, all are, without effect:
    other processes may have some and wait.
    """
    device = weight_B.device
    weighed_K = (weight_B != 0).nonzero().flatten().cpu()
    kept_K = weighed_K if len(weighed_K) else torch.arange(len(weight_B))
    order = kept_K[:0]
    for _ in range(number):
        while len(order) < size:
            order = torch.cat([order, kept_K[torch.randperm(len(kept_K), generator=generator)]])
        index_N, order = order[:size], order[size:]
        x_0 = clean[index_N]
        noise = torch.randn(x_0.shape, generator=generator)
        time_N = process.draw_time(size, generator)
        own_N = index_N.to(device)
        yield NoisedSamples(
            x_0.to(device),
            noise.to(device),
            time_N.to(device),
            process.cleanness(time_N).to(device),
            conditioning.take(own_N),
            weight_B[own_N],
            own_N,
        )
