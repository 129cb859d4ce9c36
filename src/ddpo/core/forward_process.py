"""The forward process: how clean samples are noised, and what the network is to predict of it (paper eq. 1).

`alpha_bar_t` is the share of signal variance left at timestep t: `x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t)
eps`. a is alpha_bar before a denoising step, a' after it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from ddpo.runtime.errors import ModelError

PredictionType = Literal["epsilon", "v_prediction", "sample"]


class ForwardProcess(Protocol):
    """What regressions need: times, noised samples and targets."""

    def draw_time(self, number: int, generator: torch.Generator) -> Tensor:
        """Return `number` times `(N,)` from the distribution that the model was trained with, on the CPU."""
        ...

    def noised(self, x_0: Tensor, noise: Tensor, time_N: Tensor) -> Tensor:
        """Return clean samples `(N, ...)` mixed with standard normal noise as at `time_N` `(N,)`."""
        ...

    def target(self, x_0: Tensor, noise: Tensor, time_N: Tensor) -> Tensor:
        """Return what the network is to predict at `noised(...)`, `(N, ...)`."""
        ...

    def cleanness(self, time_N: Tensor) -> Tensor:
        """Return how far the denoising run is at each time, `(N,)` float64 from 0, the noisiest, to below 1."""
        ...


@dataclass(frozen=True)
class TimeGrid:
    """The T denoising steps of a run, from the noisiest to the last."""

    timestep_T: Tensor
    """`(T,)` int64: the training timestep given to the network."""
    alpha_bar_T: Tensor
    """`(T,)` float64: alpha_bar before each step."""
    alpha_bar_next_T: Tensor
    """`(T,)` float64: alpha_bar after each step."""


Spacing = Callable[[int], tuple[Tensor, Tensor]]
"""Gives, for a number of steps, their timesteps `(T,)` int64 and alpha_bar `(T,)` float64 after each."""


@dataclass(frozen=True)
class VariancePreserving:
    """A discrete variance-preserving process with S training timesteps, as of DDPM and Stable Diffusion."""

    alpha_bar_S: Tensor
    """`(S,)` float64: alpha_bar of each training timestep."""
    prediction_type: PredictionType = "epsilon"
    spacing: Spacing | None = None
    """How a run's steps lie; None: evenly, the first at the noisiest timestep, the last ending at clean samples."""

    @classmethod
    def cosine(cls, timesteps: int = 1000, prediction_type: PredictionType = "epsilon") -> VariancePreserving:
        """Return the cosine schedule (Nichol and Dhariwal 2021, eq. 17), for models trained from scratch."""
        edge = torch.linspace(0, 1, timesteps + 1, dtype=torch.float64)
        signal = ((edge + 0.008) / 1.008 * torch.pi / 2).cos().square()
        beta_S = (1 - signal[1:] / signal[:-1]).clamp(max=0.999)
        return cls((1 - beta_S).cumprod(0), prediction_type)

    @property
    def training_timesteps(self) -> int:
        """S, the number of timesteps the model was trained with."""
        return len(self.alpha_bar_S)

    def draw_time(self, number: int, generator: torch.Generator) -> Tensor:
        """Return `number` timesteps `(N,)` int64, uniform (paper eq. 1)."""
        return torch.randint(self.training_timesteps, (number,), generator=generator)

    def noised(self, x_0: Tensor, noise: Tensor, time_N: Tensor) -> Tensor:
        """Return x_t = sqrt(a) x_0 + sqrt(1 - a) eps `(N, ...)` at training timesteps `(N,)` (q of eq. 1)."""
        signal, scale = self._signal_and_noise(x_0, time_N)
        return signal * x_0 + scale * noise

    def target(self, x_0: Tensor, noise: Tensor, time_N: Tensor) -> Tensor:
        """Return what the network is to predict at `noised(...)`: eps, v = sqrt(a) eps - sqrt(1 - a) x_0, or x_0."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return x_0
        signal, scale = self._signal_and_noise(x_0, time_N)
        return signal * noise - scale * x_0

    def cleanness(self, time_N: Tensor) -> Tensor:
        """Return the share of the timesteps that are noisier, `(N,)` float64."""
        return (self.training_timesteps - 1 - time_N).double() / self.training_timesteps

    def _signal_and_noise(self, like: Tensor, time_N: Tensor) -> tuple[Tensor, Tensor]:
        a = self.alpha_bar_S.to(like.device)[time_N].reshape(-1, *[1] * (like.ndim - 1))
        return a.sqrt().to(like.dtype), (1 - a).sqrt().to(like.dtype)

    def grid(self, steps: int) -> TimeGrid:
        """Return the grid of `steps` denoising steps.

        Raises:
            ModelError: more steps than training timesteps, or noise prediction where alpha_bar is 0.
        """
        if not 1 <= steps <= self.training_timesteps:
            raise ModelError(
                f"sampler.steps: {steps} is not between 1 and the model's {self.training_timesteps} timesteps."
            )
        timestep_T, alpha_bar_next_T = (self.spacing or self._evenly)(steps)
        if int(timestep_T.max()) >= self.training_timesteps:
            # leading spacing with an offset overshoots when steps == training timesteps
            raise ModelError(
                f"sampler.steps: with {steps} steps the grid reaches timestep {int(timestep_T.max())}, past the "
                f"model's {self.training_timesteps}; use fewer steps."
            )
        alpha_bar_T = self.alpha_bar_S[timestep_T]
        if self.prediction_type == "epsilon" and float(alpha_bar_T.min()) <= 0:
            raise ModelError(
                "scheduler: at zero terminal SNR (rescale_betas_zero_snr) the first state holds no signal, so a noise "
                "prediction says nothing about the sample; it needs prediction_type v_prediction or sample."
            )
        return TimeGrid(timestep_T, alpha_bar_T, alpha_bar_next_T)

    def _evenly(self, steps: int) -> tuple[Tensor, Tensor]:
        timestep_T = torch.linspace(self.training_timesteps - 1, 0, steps + 1).round().long()[:-1]
        after_T = torch.cat([self.alpha_bar_S[timestep_T[1:]], torch.ones(1, dtype=torch.float64)])
        return timestep_T, after_T
