"""One denoising step as a Gaussian `p(x_{t-1} | x_t, c) = N(mean, std^2 I)` (paper eq. 2): the action of the MDP."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


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
