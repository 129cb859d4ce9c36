"""Trajectories of the denoising MDP (paper section C.1) as immutable values.

Axis suffixes used throughout the package: `B` samples, `T` denoising steps, `L` the steps that have a
likelihood (all of them, or all but a deterministic last one), `N` (sample, step) pairs; `...` stands for
the axes of one sample, for latents `C H W`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Conditioning = Mapping[str, Tensor]
"""What the policy is conditioned on, the context `c`: tensors whose first axis is the sample; may be empty."""


def take(conditioning: Conditioning, indices: Tensor | slice) -> dict[str, Tensor]:
    """Return the conditioning of the samples at `indices`."""
    return {name: value[indices] for name, value in conditioning.items()}


@dataclass(frozen=True)
class Trajectory:
    """Denoising runs `x_T ... x_0` with what replaying their steps needs.

    All tensors are float32: the stored sample is the one whose log-probability is stored.
    """

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

    @staticmethod
    def concatenate(parts: Sequence[Trajectory]) -> Trajectory:
        """Join trajectories along the sample axis."""
        if len(parts) == 1:
            return parts[0]
        return Trajectory(
            conditioning={
                name: torch.cat([part.conditioning[name] for part in parts]) for name in parts[0].conditioning
            },
            states=torch.cat([part.states for part in parts]),
            means=torch.cat([part.means for part in parts]),
            log_prob_BL=torch.cat([part.log_prob_BL for part in parts]),
        )


@dataclass(frozen=True)
class Minibatch:
    """(sample, step) pairs of a trajectory with their advantages: what one evaluation of a loss sees."""

    trajectory: Trajectory
    sample_N: Tensor
    """`(N,)` int64: index of the sample of each pair."""
    step_N: Tensor
    """`(N,)` int64: index of the denoising step of each pair, 0 for the first (noisiest)."""
    advantage_B: Tensor
    """`(B,)` float32: advantage of every sample of the trajectory."""
    rows: int | None = None
    """Rows the network is to see when these pairs are replayed (see `rollout`); None: as many as there are pairs."""

    def __post_init__(self) -> None:
        if self.sample_N.shape != self.step_N.shape or self.sample_N.ndim != 1:
            raise ValueError(f"pairs do not match: {self.sample_N.shape} and {self.step_N.shape}")
        if self.advantage_B.shape != (len(self.trajectory),):
            raise ValueError(f"{len(self.trajectory)} samples but advantages {tuple(self.advantage_B.shape)}")
        if self.rows is not None and self.rows < len(self):
            raise ValueError(f"{len(self)} pairs do not fit on {self.rows} rows")

    def __len__(self) -> int:
        return self.sample_N.shape[0]

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
        return self.trajectory.means[self.sample_N, self.step_N]

    @property
    def log_prob_N(self) -> Tensor:
        """`(N,)`: log-probability under the policy that drew the step, nats."""
        return self.trajectory.log_prob_BL[self.sample_N, self.step_N]

    @property
    def advantage_N(self) -> Tensor:
        """`(N,)`: advantage of each pair's sample."""
        return self.advantage_B[self.sample_N]

    @property
    def conditioning_N(self) -> dict[str, Tensor]:
        """Conditioning of each pair."""
        return take(self.trajectory.conditioning, self.sample_N)

    def part(self, start: int, stop: int, *, rows: int | None = None) -> Minibatch:
        """Return the pairs from `start` up to `stop`, to be replayed on `rows` rows."""
        return replace(self, sample_N=self.sample_N[start:stop], step_N=self.step_N[start:stop], rows=rows)
