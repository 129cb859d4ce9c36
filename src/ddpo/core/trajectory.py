"""Trajectories of the denoising MDP (paper section C.1) as immutable values.

Axis suffixes used throughout the package: `B` samples, `T` denoising steps, `L` the steps that have a likelihood,
`N` (sample, step) pairs; `...` stands for the axes of one sample, for latents `C H W`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ddpo.core.conditioning import Conditioning
from ddpo.core.kernel import Kernel


@dataclass(frozen=True)
class Trajectory:
    """Denoising runs `x_T ... x_0` with what replaying their steps needs.

    All tensors are float32: the stored sample is the one whose log-probability is stored.
    """

    kernel: Kernel
    """The steps they were drawn with."""
    conditioning: Conditioning
    states: Tensor
    """`(B, T + 1, ...)`: `states[:, i]` is the input of step i, `states[:, i + 1]` its outcome (the action)."""
    means: Tensor
    """`(B, L, ...)`: mean of each step's Gaussian under the policy that drew it."""
    log_prob_BL: Tensor
    """`(B, L)`: log-probability of each step in nats, summed over the axes of a sample."""

    def __post_init__(self) -> None:
        B, L = self.log_prob_BL.shape
        if self.states.shape[0] != B or self.means.shape[:2] != (B, L) or self.states.shape[1] <= L:
            raise ValueError(
                f"inconsistent trajectory: states {tuple(self.states.shape)}, means {tuple(self.means.shape)}, "
                f"log_prob {tuple(self.log_prob_BL.shape)}"
            )

    def __len__(self) -> int:
        return self.states.shape[0]

    @property
    def final(self) -> Tensor:
        """`x_0`, `(B, ...)`."""
        return self.states[:, -1]

    @property
    def dimensions(self) -> int:
        """Number of scalars in one sample, the D over which a step's log-probability is summed."""
        return self.states[0, 0].numel()

    def take(self, index: slice) -> Trajectory:
        """Return some of the samples."""
        return replace(
            self,
            conditioning=self.conditioning.take(index),
            states=self.states[index],
            means=self.means[index],
            log_prob_BL=self.log_prob_BL[index],
        )

    def without_steps(self) -> Trajectory:
        """Return `x_0` alone, on the CPU: all that a regression needs, in a fraction of the memory."""
        states = self.states[:, -1:].to("cpu", copy=True)
        B, *shape = self.final.shape
        return replace(self, states=states, means=states.new_empty(B, 0, *shape), log_prob_BL=states.new_empty(B, 0))

    @staticmethod
    def concatenate(parts: Sequence[Trajectory]) -> Trajectory:
        """Join trajectories along the sample axis."""
        if len(parts) == 1:
            return parts[0]
        return Trajectory(
            kernel=parts[0].kernel,
            conditioning=Conditioning.concatenate([part.conditioning for part in parts]),
            states=torch.cat([part.states for part in parts]),
            means=torch.cat([part.means for part in parts]),
            log_prob_BL=torch.cat([part.log_prob_BL for part in parts]),
        )


@dataclass(frozen=True)
class Pairs:
    """(sample, step) pairs of a trajectory with their advantages: what one evaluation of a policy gradient sees."""

    trajectory: Trajectory
    sample_N: Tensor
    """`(N,)` int64: index of the sample of each pair."""
    index_N: Tensor
    """`(N,)` int64: which of the L steps with a likelihood, 0 for the first (noisiest)."""
    advantage_B: Tensor
    """`(B,)` float32: advantage of every sample of the trajectory."""
    rows: int | None = None
    """Rows the network is to see when these pairs are replayed (see `rollout`); None: as many as there are pairs."""

    def __post_init__(self) -> None:
        if self.sample_N.shape != self.index_N.shape or self.sample_N.ndim != 1:
            raise ValueError(f"pairs do not match: {self.sample_N.shape} and {self.index_N.shape}")
        if self.advantage_B.shape != (len(self.trajectory),):
            raise ValueError(f"{len(self.trajectory)} samples but advantages {tuple(self.advantage_B.shape)}")
        if self.rows is not None and self.rows < len(self):
            raise ValueError(f"{len(self)} pairs do not fit on {self.rows} rows")

    def __len__(self) -> int:
        return self.sample_N.shape[0]

    @property
    def step_N(self) -> Tensor:
        """`(N,)` int64: the denoising step of each pair, 0 to T - 1."""
        return self.trajectory.kernel.stochastic_L.to(self.index_N.device)[self.index_N]

    @property
    def time_N(self) -> Tensor:
        """`(N,)`: what the network is told as time."""
        return self.trajectory.kernel.time(self.step_N)

    def stretch_N(self, number: int) -> Tensor:
        """Return in which of `number` equal stretches of the steps with a likelihood each pair lies, `(N,)` from 1.

        Fewer steps than that are a stretch each.
        """
        L = self.trajectory.log_prob_BL.shape[1]
        return 1 + self.index_N * min(number, L) // L

    @property
    def state_N(self) -> Tensor:
        """`(N, ...)`: `x_t` of each pair."""
        return self.trajectory.states[self.sample_N, self.step_N]

    @property
    def next_state_N(self) -> Tensor:
        """`(N, ...)`: the stored `x_{t-1}` of each pair."""
        return self.trajectory.states[self.sample_N, self.step_N + 1]

    @property
    def mean_N(self) -> Tensor:
        """`(N, ...)`: mean of the step under the policy that drew it."""
        return self.trajectory.means[self.sample_N, self.index_N]

    @property
    def log_prob_N(self) -> Tensor:
        """`(N,)`: log-probability under the policy that drew the step, nats."""
        return self.trajectory.log_prob_BL[self.sample_N, self.index_N]

    @property
    def advantage_N(self) -> Tensor:
        """`(N,)`: advantage of each pair's sample."""
        return self.advantage_B[self.sample_N]

    @property
    def conditioning_N(self) -> Conditioning:
        """Conditioning of each pair."""
        return self.trajectory.conditioning.take(self.sample_N)

    def filled(self) -> Pairs:
        """Return the pairs with the last one repeated until there are `rows`."""
        number = len(self)
        index_N = torch.arange(self.rows or number, device=self.sample_N.device).clamp(max=number - 1)
        return replace(self, sample_N=self.sample_N[index_N], index_N=self.index_N[index_N])

    def split(self, batch_size: int) -> Iterator[Pairs]:
        """Yield the parts that go through the network together, each to be replayed on `batch_size` rows."""
        for start in range(0, len(self), batch_size):
            part = slice(start, start + batch_size)
            yield replace(self, sample_N=self.sample_N[part], index_N=self.index_N[part], rows=batch_size)
