"""The noise of the arithmetic in log-probabilities, which replaying unchanged weights cannot show.

Before the first update rollout and replay compute the same thing and round alike: the importance ratio is 1 even in
bfloat16. Once the weights have moved by anything they round differently, and the ratio of every step is off by noise
that no clip range should be narrower than.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ddpo.core.conditioning import Conditioning
from ddpo.core.policy import Policy

SHIFT = 1e-4
"""How far the network's input is moved, relative to each of its numbers: enough to round differently everywhere."""


class ShiftedInputs:
    """A policy whose network sees each input moved by a little, in a fixed direction; the steps' Gaussians stay."""

    def __init__(self, policy: Policy, shift: float) -> None:
        self._policy, self._shift = policy, shift

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def predict(self, x: Tensor, time_B: Tensor, conditioning: Conditioning, *, guided: bool) -> Tensor:
        """Return the policy's prediction at `x` `(B, ...)` moved by `shift`."""
        direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x.device)
        return self._policy.predict(x * (1 + self._shift * direction), time_B, conditioning, guided=guided)


def noise_floor(policy: Policy, ratio_of: Callable[[Any], Tensor], here_N: Tensor) -> Tensor:
    """Return the noise in each pair's importance ratio `(N,)`; `ratio_of` a policy gives the ratios, `here_N` of this.

    The second difference over inputs moved to and fro: what the shift does to exact arithmetic cancels, and the
    rounding of three passes, which is independent, is left; divided by sqrt(6) it is that of one.
    """
    forth_N, back_N = (ratio_of(ShiftedInputs(policy, shift)).double() for shift in (SHIFT, -SHIFT))
    return (forth_N - 2 * here_N.double() + back_N).abs() / 6**0.5
