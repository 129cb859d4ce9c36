"""The kernel: a sampler as data. Every sampler of every model family is a table of Gaussian steps

    x' ~ N(x_T * x + prediction_T * prediction, std_T^2 I)                                        (paper eq. 2)

with what the network is told as time. The steps with std > 0 have a likelihood and are the actions of the MDP; they
may be any set. A function that returns a `Kernel` is all that a new sampler needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ddpo.core.forward_process import PredictionType, VariancePreserving
from ddpo.core.gaussian import Gaussian
from ddpo.runtime.errors import ConfigError


@dataclass(frozen=True)
class Kernel:
    """The T denoising steps of a run, from the noisiest to the last.

    Raises ConfigError when its columns differ in length or no step has a likelihood.
    """

    time_T: Tensor
    """`(T,)`: what the network is told, such as the training timestep (int64)."""
    x_T: Tensor
    """`(T,)` float64: coefficient of x in the step's mean."""
    prediction_T: Tensor
    """`(T,)` float64: coefficient of the network's (guided) prediction in the step's mean."""
    std_T: Tensor
    """`(T,)` float64: standard deviation of the step; 0 where it is deterministic."""

    def __post_init__(self) -> None:
        shapes = {tuple(column.shape) for column in (self.time_T, self.x_T, self.prediction_T, self.std_T)}
        if len(shapes) != 1 or len(next(iter(shapes))) != 1:
            raise ConfigError(f"sampler: the columns of a kernel must be of one length (T,), not {sorted(shapes)}.")
        if not len(self.stochastic_L):
            raise ConfigError(
                "sampler: every step of this kernel is deterministic, so there is no likelihood to train on; "
                "use more steps, or more noise (eta)."
            )

    def __len__(self) -> int:
        return self.time_T.shape[0]

    @cached_property
    def stochastic_L(self) -> Tensor:
        """`(L,)` int64: the steps with std > 0, which have a likelihood."""
        return (self.std_T > 0).nonzero().flatten().cpu()

    def time(self, step_B: Tensor) -> Tensor:
        """Return what the network is told as time at each step index, `(B,)`."""
        return self._tables(step_B.device)[0][step_B]

    def gaussian(self, x: Tensor, prediction: Tensor, step_B: Tensor) -> Gaussian:
        """Return the Gaussian of step `step_B` `(B,)` at `x` `(B, ...)` given the (guided) prediction."""
        _, of_x_T, of_prediction_T, std_T = self._tables(x.device)
        shape = (-1, *[1] * (x.ndim - 1))
        mean = of_x_T[step_B].reshape(shape) * x + of_prediction_T[step_B].reshape(shape) * prediction
        return Gaussian(mean, std_T[step_B])

    def _tables(self, device: torch.device) -> tuple[Tensor, ...]:
        """Return times, and coefficients and stds in float32, on `device`."""
        if device not in self._cached:
            rows = (row.to(device, torch.float32) for row in (self.x_T, self.prediction_T, self.std_T))
            self._cached[device] = (self.time_T.to(device), *rows)
        return self._cached[device]

    @cached_property
    def _cached(self) -> dict[torch.device, tuple[Tensor, ...]]:
        return {}


KernelFactory = Callable[[Any], Kernel]
"""Makes the kernel of a run on a model's noise schedule."""


def ddim(schedule: VariancePreserving, steps: int, eta: float = 1.0) -> Kernel:
    """Return the kernel of DDIM (Song et al. 2021, eq. 12); `eta` above 0 and at most 1.

    Raises:
        ConfigError: an eta out of this range: at 0 no step has a likelihood, above 1 a step is not defined.
        ModelError: the schedule has no run of so many steps.
    """
    check_schedule(schedule, VariancePreserving, "flow matching: use flow-sde, or another of its samplers")
    if not 0 < eta <= 1:
        raise ConfigError(
            f"sampler.eta: {eta} is not above 0 and at most 1; at 0 every denoising step is deterministic and has no "
            "likelihood to train on (1 is the paper's)."
        )

    def mean(x: Tensor, prediction: Tensor, a: Tensor, a_next: Tensor) -> Tensor:
        return ddim_mean(x, prediction, a, a_next, eta, schedule.prediction_type)

    return _from_mean(schedule, steps, mean, eta)


def ancestral(schedule: VariancePreserving, steps: int) -> Kernel:
    """Return the kernel of DDPM's ancestral sampling, the paper's sampler (F.6); equals `ddim` with eta 1."""
    check_schedule(schedule, VariancePreserving, "flow matching: use flow-sde, or another of its samplers")

    def mean(x: Tensor, prediction: Tensor, a: Tensor, a_next: Tensor) -> Tensor:
        return ancestral_mean(x, prediction, a, a_next, schedule.prediction_type)

    return _from_mean(schedule, steps, mean, 1.0)


def check_schedule(schedule: object, kind: type, what: str) -> None:
    """Raise ConfigError when a sampler is made on a schedule that is not of its `kind` but `what`."""
    if not isinstance(schedule, kind):
        raise ConfigError(f"sampler.name: this model is of {what}.")


def _from_mean(
    schedule: VariancePreserving, steps: int, mean: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor], eta: float
) -> Kernel:
    """Return the kernel of a mean that is linear in x and the prediction: its values at (1, 0) and (0, 1)."""
    grid = schedule.grid(steps)
    a_T, a_next_T = grid.alpha_bar_T, grid.alpha_bar_next_T
    one, zero = torch.ones_like(a_T), torch.zeros_like(a_T)
    of_x_T, of_prediction_T = mean(one, zero, a_T, a_next_T), mean(zero, one, a_T, a_next_T)
    return Kernel(grid.timestep_T, of_x_T, of_prediction_T, posterior_std(a_T, a_next_T, eta))


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


def ddim_mean(
    x: Tensor, prediction: Tensor, a: Tensor, a_next: Tensor, eta: float, prediction_type: PredictionType
) -> Tensor:
    """Return the mean of a DDIM step (Song et al. 2021, eq. 12): sqrt(a') x0_hat + sqrt(1-a'-sigma^2) eps.

    `x` and `prediction` are `(B, ...)`, `a` and `a_next` broadcast against them.
    """
    eps, x0_hat = to_noise_and_sample(x, prediction, a, prediction_type)
    direction = (1 - a_next - posterior_std(a, a_next, eta).square()).clamp(min=0).sqrt()
    return a_next.sqrt() * x0_hat + direction * eps


def ancestral_mean(x: Tensor, prediction: Tensor, a: Tensor, a_next: Tensor, prediction_type: PredictionType) -> Tensor:
    """Return the mean of a DDPM ancestral step (Ho et al. 2020, eq. 7), the posterior q(x_{t-1} | x_t, x0_hat).

    With alpha = a/a' and beta = 1 - alpha: sqrt(a') beta/(1-a) x0_hat + sqrt(alpha) (1-a')/(1-a) x.
    """
    _, x0_hat = to_noise_and_sample(x, prediction, a, prediction_type)
    alpha = a / a_next
    return a_next.sqrt() * (1 - alpha) / (1 - a) * x0_hat + alpha.sqrt() * (1 - a_next) / (1 - a) * x
