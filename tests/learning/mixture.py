"""A policy over the real line whose samples follow a mixture of two Gaussians, and how rewards should tilt it.

The network is linear in 40 radial basis functions of x for each of 20 timesteps, so a little data fits it well and a
test trains it in seconds. It begins as the ridge regression of p(x) = N(-1, 0.3^2) / 2 + N(1, 0.3^2) / 2.

The reward is r(x) = x. Maximising it with a KL penalty 1/beta has the optimum p(x) exp(beta x) / Z, which for a
Gaussian N(m, s^2) is N(m + beta s^2, s^2) with weight exp(beta m + beta^2 s^2 / 2): both modes move by beta s^2, and
the upper one is exp(2 beta) times as heavy as the lower.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ddpo.core.conditioning import Conditioning
from ddpo.core.kernel import ddim
from ddpo.media import Image
from ddpo.policies import NetworkPolicy
from ddpo.policies.schedule import read_schedule

MODES, SPREAD = (-1.0, 1.0), 0.3
TIMESTEPS = 20
CONFIG = {
    "num_train_timesteps": TIMESTEPS,
    "beta_schedule": "linear",
    "beta_start": 0.02,
    "beta_end": 0.5,
    "set_alpha_to_one": False,
    "steps_offset": 0,
}
REACH = 4.0
"""Pictures are the samples mapped from -REACH ... REACH to 0 ... 1."""


class Bumps(nn.Module):
    """Linear in 40 radial basis functions of x, x itself and a constant, for each timestep."""

    def __init__(self) -> None:
        super().__init__()
        self.centres = torch.linspace(-REACH, REACH, 40)
        self.weights = nn.Parameter(torch.zeros(TIMESTEPS, len(self.centres) + 2))

    def features(self, x: Tensor) -> Tensor:
        """Return `(B, 42)`."""
        bumps = torch.exp(-0.5 * ((x - self.centres) / (self.centres[1] - self.centres[0])).square())
        return torch.cat([bumps, x, torch.ones_like(x)], 1)

    def forward(self, x: Tensor, timestep_B: Tensor) -> Tensor:
        return (self.features(x) * self.weights[timestep_B]).sum(1, keepdim=True)


class MixturePolicy(NetworkPolicy):
    """The `Policy` of the module's description, deterministic in `seed`."""

    medium = Image()

    def __init__(self, seed: int = 0) -> None:
        schedule = read_schedule(CONFIG)
        network = Bumps()
        network.weights.data = self._fitted(network, torch.Generator().manual_seed(seed))
        super().__init__(network, ddim(schedule, TIMESTEPS), schedule, (1,))

    @staticmethod
    def _fitted(network: Bumps, generator: torch.Generator) -> Tensor:
        clean = base_samples(20_000, generator)[:, None]
        rows = []
        for timestep in range(TIMESTEPS):
            noise = torch.randn(clean.shape, generator=generator)
            noised = read_schedule(CONFIG).noised(clean, noise, torch.full((len(clean),), timestep))
            features = network.features(noised).double()
            gram = features.T @ features + 1e-3 * len(clean) / 40 * torch.eye(features.shape[1], dtype=torch.float64)
            rows.append(torch.linalg.solve(gram, features.T @ noise.double())[:, 0].float())
        return torch.stack(rows)

    @property
    def weights(self) -> nn.Parameter:
        """All that is trained."""
        weights: nn.Parameter = self.network.weights
        return weights

    def predict(self, x: Tensor, time_B: Tensor, conditioning: Conditioning, *, guided: bool) -> Tensor:
        prediction: Tensor = self.network(x, time_B)
        return prediction

    def decode(self, x_0: Tensor) -> Tensor:
        return (x_0 / (2 * REACH) + 0.5).clamp(0, 1)[:, :, None, None].expand(-1, 3, 1, 1)


def base_samples(number: int, generator: torch.Generator) -> Tensor:
    """Return samples `(number,)` of p."""
    mode = torch.tensor(MODES)[torch.randint(2, (number,), generator=generator)]
    return mode + SPREAD * torch.randn(number, generator=generator)


def position(images: Tensor, prompts: list[str], metadata: list[dict[str, Any]]) -> Tensor:
    """Return r(x) = x, `(B,)`."""
    return (images[:, 0, 0, 0] - 0.5) * 2 * REACH


def tilted_mean(beta: float) -> float:
    """Return the mean of p(x) exp(beta x) / Z."""
    upper = 1 / (1 + math.exp(-2 * beta))
    return upper * MODES[1] + (1 - upper) * MODES[0] + beta * SPREAD**2


def tilted_share(beta: float) -> float:
    """Return the share of the upper mode under p(x) exp(beta x) / Z."""
    return 1 / (1 + math.exp(-2 * beta))
