"""One denoising step as a Gaussian `p(x_{t-1} | x_t, c) = N(mean, std^2 I)` (paper eq. 2): the action of the MDP.

Notation: `a` is alpha_bar before the step, `a'` after it; `x0_hat` and `eps` are the network's prediction
expressed as clean sample and as noise. Coefficients are computed in float64, samples stay in float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from ddpo.core.forward_process import NoiseSchedule, PredictionType, TimeGrid
from ddpo.runtime.errors import ConfigError

SamplerName = Literal["ddim", "ancestral"]


@dataclass(frozen=True)
class Gaussian:
    """`N(mean, std^2 I)` over a batch of samples."""

    mean: Tensor
    """`(B, ...)` float32."""
    std_B: Tensor
    """`(B,)` float32: one standard deviation a sample, shared by its dimensions."""

    def _over_dimensions(self, value_B: Tensor) -> Tensor:
        return value_B.reshape(-1, *[1] * (self.mean.ndim - 1))

    def sample(self, noise: Tensor) -> Tensor:
        """Return `mean + std * noise`, `(B, ...)`; `noise` is standard normal of the same shape."""
        return self.mean + self._over_dimensions(self.std_B) * noise

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x) in nats, `(B,)`, summed over the dimensions of a sample; -inf-free only for std > 0."""
        z = (x - self.mean) / self._over_dimensions(self.std_B)
        dimensions = x[0].numel()
        constant_B = dimensions * (torch.log(self.std_B) + 0.5 * math.log(2 * math.pi))
        return -0.5 * z.square().flatten(1).sum(1) - constant_B

    def kl(self, mean: Tensor) -> Tensor:
        """Return KL(N(mean, std^2) || self) in nats, `(B,)`, for a Gaussian of the same std.

        Exact: `|mean - self.mean|^2 / (2 std^2)`, summed over dimensions, and symmetric.
        """
        z = (mean - self.mean) / self._over_dimensions(self.std_B)
        return 0.5 * z.square().flatten(1).sum(1)


def to_noise_and_sample(
    x: Tensor, prediction: Tensor, a: Tensor, prediction_type: PredictionType
) -> tuple[Tensor, Tensor]:
    """Express a network's prediction at `x` as `(eps, x0_hat)`, both `(B, ...)`; `a` broadcasts against `x`.

    epsilon: x0 = (x - sqrt(1-a) eps) / sqrt(a). v_prediction: x0 = sqrt(a) x - sqrt(1-a) v,
    eps = sqrt(a) v + sqrt(1-a) x (Salimans and Ho 2022, appendix D).
    """
    signal, noise = a.sqrt(), (1 - a).sqrt()
    if prediction_type == "epsilon":
        return prediction, (x - noise * prediction) / signal
    if prediction_type == "v_prediction":
        return signal * prediction + noise * x, signal * x - noise * prediction
    return (x - signal * prediction) / noise, prediction


def posterior_std(a: Tensor, a_next: Tensor, eta: float = 1.0) -> Tensor:
    """Return eta * sqrt((1-a')/(1-a) (1-a/a')): DDIM's sigma; eta 1 is the DDPM posterior of the strided chain."""
    return eta * ((1 - a_next) / (1 - a) * (1 - a / a_next)).clamp(min=0).sqrt()


def ddim(
    x: Tensor, prediction: Tensor, a: Tensor, a_next: Tensor, eta: float, prediction_type: PredictionType
) -> Tensor:
    """Return the mean of a DDIM step (Song et al. 2021, eq. 12): sqrt(a') x0_hat + sqrt(1-a'-sigma^2) eps.

    `x` and `prediction` are `(B, ...)`, `a` and `a_next` broadcast against them.
    """
    eps, x0_hat = to_noise_and_sample(x, prediction, a, prediction_type)
    direction = (1 - a_next - posterior_std(a, a_next, eta).square()).clamp(min=0).sqrt()
    return a_next.sqrt() * x0_hat + direction * eps


def ancestral(x: Tensor, prediction: Tensor, a: Tensor, a_next: Tensor, prediction_type: PredictionType) -> Tensor:
    """Return the mean of a DDPM ancestral step (Ho et al. 2020, eq. 7), the posterior q(x_{t-1} | x_t, x0_hat).

    With alpha = a/a' and beta = 1 - alpha: sqrt(a') beta/(1-a) x0_hat + sqrt(alpha) (1-a')/(1-a) x.
    """
    _, x0_hat = to_noise_and_sample(x, prediction, a, prediction_type)
    alpha = a / a_next
    return a_next.sqrt() * (1 - alpha) / (1 - a) * x0_hat + alpha.sqrt() * (1 - a_next) / (1 - a) * x


@dataclass(frozen=True)
class Sampler:
    """Turns a network's prediction into the Gaussian of a denoising step on a fixed time grid.

    `ancestral` is the paper's sampler (F.6); it equals `ddim` with eta = 1.
    """

    grid: TimeGrid
    prediction_type: PredictionType
    name: SamplerName = "ddim"
    eta: float = 1.0

    def __post_init__(self) -> None:
        if not self.eta <= 1:
            raise ConfigError(f"sampler.eta: {self.eta} is above 1, where a DDIM step is not defined.")
        if self.eta <= 0:
            raise ConfigError(
                f"sampler.eta: {self.eta} makes every denoising step deterministic, so steps have no likelihood "
                "to train on; use a value above 0, at most 1 (1 is the paper's)."
            )
        if self.steps_with_likelihood == 0:
            raise ConfigError("sampler.steps: the only step of this grid is deterministic; use more steps.")

    @classmethod
    def create(cls, schedule: NoiseSchedule, name: SamplerName, steps: int, eta: float) -> Sampler:
        """Build the sampler of `steps` steps on a model's schedule."""
        return cls(schedule.grid(steps), schedule.prediction_type, name, eta)

    def __len__(self) -> int:
        return len(self.grid)

    @cached_property
    def std_T(self) -> Tensor:
        """`(T,)` float64: standard deviation of each step."""
        eta = 1.0 if self.name == "ancestral" else self.eta
        return posterior_std(self.grid.alpha_bar_T, self.grid.alpha_bar_next_T, eta)

    @property
    def steps_with_likelihood(self) -> int:
        """L: the steps with std > 0. Only the last can be deterministic (alpha_bar reaches 1); it is left out."""
        return len(self) if float(self.std_T[-1]) > 0 else len(self) - 1

    def mean(self, x: Tensor, prediction: Tensor, a: Tensor, a_next: Tensor) -> Tensor:
        """Return the mean of a step from `a` to `a_next`."""
        if self.name == "ancestral":
            return ancestral(x, prediction, a, a_next, self.prediction_type)
        return ddim(x, prediction, a, a_next, self.eta, self.prediction_type)

    def timestep(self, step_B: Tensor) -> Tensor:
        """Return the network's timestep of each step index, `(B,)` int64."""
        return self._tables(step_B.device)[0][step_B]

    def gaussian(self, x: Tensor, prediction: Tensor, step_B: Tensor) -> Gaussian:
        """Return the Gaussian of step `step_B` `(B,)` at `x` `(B, ...)` given the (guided) prediction."""
        _, of_x_T, of_prediction_T, std_T = self._tables(x.device)
        shape = (-1, *[1] * (x.ndim - 1))
        mean = of_x_T[step_B].reshape(shape) * x + of_prediction_T[step_B].reshape(shape) * prediction
        return Gaussian(mean, std_T[step_B])

    def _tables(self, device: torch.device) -> tuple[Tensor, ...]:
        """Timesteps, coefficients of x and of the prediction in the mean, and stds; each `(T,)` on `device`.

        The mean of every sampler here is linear in x and the prediction, so its coefficients are its values
        at (1, 0) and (0, 1), taken in float64.
        """
        if device not in self._cached:
            a_T, a_next_T = self.grid.alpha_bar_T, self.grid.alpha_bar_next_T
            one, zero = torch.ones_like(a_T), torch.zeros_like(a_T)
            rows = self.mean(one, zero, a_T, a_next_T), self.mean(zero, one, a_T, a_next_T), self.std_T
            tables = (row.to(device, torch.float32) for row in rows)
            self._cached[device] = (self.grid.timestep_T.to(device), *tables)
        return self._cached[device]

    @cached_property
    def _cached(self) -> dict[torch.device, tuple[Tensor, ...]]:
        return {}
