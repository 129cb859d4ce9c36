"""Flow matching: the rectified flow, and the kernels that make a chain of Gaussian steps of it.

At noise level sigma, from 1 to 0, a sample is `x = (1 - sigma) x_0 + sigma eps`; the network predicts the velocity
`v = eps - x_0`. So `x_0_hat = x - sigma v` and `eps_hat = x + (1 - sigma) v`. A step goes from sigma to sigma', with
`dt = sigma' - sigma < 0`. Without noise it is `x' = x + v dt`. Kernels differ in the noise they add and in what they
take away for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ddpo.core.kernel import Kernel, check_schedule
from ddpo.runtime.errors import ConfigError

Grid = Callable[[int], Tensor]
"""Gives, for a number of steps T, the noise levels `(T + 1,)` float64 from the noisiest to 0."""
_Row = tuple[float, float, float]
"""Coefficients of x and of the prediction in a step's mean, and its standard deviation."""


@dataclass(frozen=True)
class RectifiedFlow:
    """The forward process of flow-matching models; their time is sigma times `timesteps`."""

    shift: float = 1.0
    """Moves noise levels up, `shift s / (1 + (shift - 1) s)`: large pictures need more noise (Esser et al. 2024)."""
    timesteps: int = 1000
    """What the network is told at sigma 1."""
    grid: Grid | None = None
    """The noise levels of a run; None: evenly spaced, then shifted."""

    def sigmas(self, steps: int) -> Tensor:
        """Return the noise levels of a run of so many steps, `(T + 1,)` float64.

        Raises:
            ConfigError: they do not fall from at most 1 to 0.
        """
        even = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        sigma = self._shifted(even) if self.grid is None else self.grid(steps).double()
        if len(sigma) != steps + 1 or sigma[0] > 1 or sigma[-1] != 0 or not (sigma.diff() < 0).all():
            raise ConfigError(f"sampler.steps: the noise levels of {steps} steps do not fall from at most 1 to 0.")
        return sigma

    def draw_time(self, number: int, generator: torch.Generator) -> Tensor:
        """Return `number` times `(N,)`: uniform noise levels, shifted."""
        return self._shifted(torch.rand(number, generator=generator)) * self.timesteps

    def noised(self, x_0: Tensor, noise: Tensor, time_N: Tensor) -> Tensor:
        """Return `(1 - sigma) x_0 + sigma eps`, `(N, ...)`."""
        sigma = (time_N / self.timesteps).to(x_0).reshape(-1, *[1] * (x_0.ndim - 1))
        return (1 - sigma) * x_0 + sigma * noise

    def target(self, x_0: Tensor, noise: Tensor, time_N: Tensor) -> Tensor:
        """Return the velocity `eps - x_0`."""
        del time_N
        return noise - x_0

    def cleanness(self, time_N: Tensor) -> Tensor:
        """Return the share of the noise levels that are higher, `(N,)` float64."""
        sigma = time_N.double() / self.timesteps
        even = sigma / (self.shift - (self.shift - 1) * sigma)
        return (1 - even).clamp(max=1 - 1e-9)

    def _shifted(self, even: Tensor) -> Tensor:
        return self.shift * even / (1 + (self.shift - 1) * even)


def flow_sde(flow: RectifiedFlow, steps: int, level: float = 0.7, window: tuple[int, int] | None = None) -> Kernel:
    """Return the kernel of Flow-GRPO (Liu et al. 2025): a step of the SDE with the flow's marginals.

    With `g = level sqrt(sigma / (1 - sigma))` the mean is `x (1 + g^2 dt / (2 sigma)) + v (1 + g^2 (1 - sigma) /
    (2 sigma)) dt`, the standard deviation `g sqrt(-dt)`. At sigma 1, where g has no limit, its denominator is that of
    the next noise level. For `level` and `window`, and what is raised, see `flow_ddim`.
    """

    def row(sigma: float, after: float) -> _Row:
        finite = after if sigma == 1 else sigma
        return _sde(sigma, after, level * math.sqrt(sigma / (1 - finite)))

    return _kernel(flow, steps, row, level, window)


def flow_dance(flow: RectifiedFlow, steps: int, level: float = 0.3, window: tuple[int, int] | None = None) -> Kernel:
    """Return the kernel of DanceGRPO (Xue et al. 2025): as `flow_sde`, with the same `g = level` in every step."""
    return _kernel(flow, steps, lambda sigma, after: _sde(sigma, after, level), level, window)


def flow_ddim(flow: RectifiedFlow, steps: int, level: float = 1.0, window: tuple[int, int] | None = None) -> Kernel:
    """Return what DDIM is to diffusion: x_0_hat and eps_hat mixed anew, with a share of the chain's posterior noise.

    The mean is `(1 - sigma') x_0_hat + sqrt(sigma'^2 - std^2) eps_hat`; with `r = (1 - sigma) sigma' / ((1 - sigma')
    sigma)` the standard deviation is `level sigma' sqrt(1 - r^2)`. Every noise level keeps its marginal.

    `window` are the first stochastic step and the first after them; None: all. Outside, and in the last step, which
    ends at clean samples, a step is deterministic and has no likelihood to train on.

    Raises:
        ConfigError: a level that is not above 0, here and in `flow_cps` also above 1, or a window without a step.
    """
    _check_share(level)

    def row(sigma: float, after: float) -> _Row:
        ratio = (1 - sigma) * after / ((1 - after) * sigma)
        return _mixed(sigma, after, level * after * math.sqrt(max(0.0, 1 - ratio * ratio)))

    return _kernel(flow, steps, row, level, window)


def flow_cps(flow: RectifiedFlow, steps: int, level: float = 0.7, window: tuple[int, int] | None = None) -> Kernel:
    """Return the kernel of Flow-CPS (Wang and Yu 2025): as `flow_ddim` with the noise `sigma' sin(level pi / 2)`.

    More noise than the chain's posterior has: it does not keep the marginals, with any number of steps. At level 1 it
    is diffusers' `stochastic_sampling`.
    """
    _check_share(level)

    def row(sigma: float, after: float) -> _Row:
        return _mixed(sigma, after, after * math.sin(level * math.pi / 2))

    return _kernel(flow, steps, row, level, window)


def _check_share(level: float) -> None:
    """Refuse a step that would add more noise than the level it goes to has."""
    if level > 1:
        raise ConfigError(f"sampler.level: {level:g} is above 1, more noise than this sampler's steps can end with.")


def _sde(sigma: float, after: float, g: float) -> _Row:
    dt = after - sigma
    drift = g * g / (2 * sigma) * dt
    return 1 + drift, dt + drift * (1 - sigma), g * math.sqrt(-dt)


def _mixed(sigma: float, after: float, std: float) -> _Row:
    of_noise = math.sqrt(max(0.0, after * after - std * std))
    return (1 - after) + of_noise, of_noise * (1 - sigma) - (1 - after) * sigma, std


def _kernel(
    flow: RectifiedFlow,
    steps: int,
    row: Callable[[float, float], _Row],
    level: float,
    window: tuple[int, int] | None,
) -> Kernel:
    """Return the kernel whose stochastic steps, all in the window but the last of the run, are those of `row`."""
    check_schedule(flow, RectifiedFlow, "diffusion, not flow matching: use ddim")
    if not level > 0:
        raise ConfigError(f"sampler.level: {level:g} is not above 0: no step would have a likelihood to train on.")
    begin, end = (0, steps) if window is None else window
    if not 0 <= begin < min(end, steps - 1):
        raise ConfigError(f"sampler.window: [{begin}, {end}] holds none of the first {steps - 1} of {steps} steps.")
    sigma = flow.sigmas(steps).tolist()
    rows = [
        row(before, after) if begin <= step < min(end, steps - 1) else (1.0, after - before, 0.0)
        for step, (before, after) in enumerate(pairwise(sigma))
    ]
    columns = (torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True))
    return Kernel(torch.tensor(sigma[:-1]) * flow.timesteps, *columns)
