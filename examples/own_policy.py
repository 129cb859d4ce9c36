"""A model of your own: points in the plane, an MLP denoiser trained from nothing by reward alone.

    ddpo train policy=examples/own_policy.py:Points reward=examples/own_policy.py:near_target prompts=none iterations=60

A policy is a network with a kernel (the denoising steps) and a forward process (the noise schedule). `NetworkPolicy`
gives all else: unconditional, samples as plain arrays, weights saved as one file.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ddpo.core.conditioning import Conditioning
from ddpo.core.forward_process import VariancePreserving
from ddpo.media import Array
from ddpo.policies import NetworkPolicy, PolicySettings

TARGET = (-1.5, 0.3)


class Denoiser(nn.Module):
    """Predicts v from a point and the time; at first 0, which draws points from N(0, I)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Linear(2 + 8, width), nn.Mish(), nn.Linear(width, width), nn.Mish(), nn.Linear(width, 2))
        )
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)

    def forward(self, x: Tensor, timestep_B: Tensor) -> Tensor:
        phase = timestep_B[:, None] / 1000 * torch.pi * torch.tensor([1.0, 2.0, 4.0, 8.0], device=x.device)
        return self.layers(torch.cat([x, phase.sin(), phase.cos()], 1))


class Points(NetworkPolicy):
    """Samples `(B, 2)`."""

    medium = Array(limits=(-3.0, 3.0))
    defaults = {  # noqa: RUF012 - what a run of this policy sets unless it is told otherwise
        "sampler": {"steps": 10},
        "algorithm": {"name": "ddpo-is", "log_prob": "sum", "clip_range": 0.2},
        "advantage": "batch",
        "samples_per_iteration": 256,
        "batch_size": 256,
        "learning_rate": 1.0e-3,
        "evaluation": {"number": 24, "every": 20, "kl_to_base": True},
    }

    def __init__(self, settings: PolicySettings, width: int = 64) -> None:
        schedule = VariancePreserving.cosine(prediction_type="v_prediction")
        super().__init__(Denoiser(width), settings.kernel(schedule), schedule, (2,), settings.device)

    def predict(self, x: Tensor, time_B: Tensor, conditioning: Conditioning, *, guided: bool) -> Tensor:
        return self.network(x, time_B)


def near_target(points: Tensor, prompts: list[str], metadata: list[dict[str, Any]]) -> Tensor:
    """Return minus the distance of points `(B, 2)` from the target, `(B,)`: at most 0."""
    return -(points - torch.tensor(TARGET)).norm(dim=1)


near_target.media = ("array",)
near_target.label = "negative distance"
