"""The policy: a diffusion model with its guidance and sampler, seen as the actor of the denoising MDP.

Everything above this layer (rollout, algorithms, trainer) knows a model only through this protocol.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from ddpo.core.forward_process import NoiseSchedule
from ddpo.core.kernel import Gaussian, Sampler
from ddpo.core.trajectory import Conditioning


class Policy(Protocol):
    """pi_theta(x_{t-1} | x_t, c): what a model family must offer to be trained."""

    schedule: NoiseSchedule
    sampler: Sampler
    sample_shape: tuple[int, ...]
    """Shape of one sample in the space where denoising happens, for latents `(C, H, W)`."""
    device: torch.device

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Return the conditioning of each prompt; an empty mapping for an unconditional model."""
        ...

    def predict(self, x: Tensor, timestep_B: Tensor, conditioning: Conditioning) -> Tensor:
        """Return the prediction that regression trains, `(B, ...)`, at training timesteps `timestep_B` `(B,)`.

        It is the guided one with CFG training (G.1), else the conditional one alone.
        """
        ...

    def step(self, x: Tensor, step_B: Tensor, conditioning: Conditioning) -> Gaussian:
        """Return the Gaussian of denoising step `step_B` `(B,)` at `x` `(B, ...)`."""
        ...

    def decode(self, samples: Tensor) -> Tensor:
        """Turn final samples `(B, ...)` into what the reward sees: images `(B, 3, H, W)` in [0, 1] on the CPU."""
        ...

    def parameters(self) -> Iterable[nn.Parameter]:
        """Return the trainable parameters, in float32."""
        ...

    def save(self, folder: Path) -> None:
        """Write the trained weights so that the model's own library loads them."""
        ...
