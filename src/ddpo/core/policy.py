"""The policy: a diffusion or flow model with its guidance and kernel, seen as the actor of the denoising MDP.

Everything above this room (algorithms, training, evaluation) knows a model only through this protocol.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from ddpo.core.conditioning import Conditioning
from ddpo.core.forward_process import ForwardProcess
from ddpo.core.kernel import Kernel
from ddpo.core.prompt import Prompt
from ddpo.media.medium import Medium


class Policy(Protocol):
    """pi_theta(x_{t-1} | x_t, c): what a model family must offer to be trained; `policies/base.py` gives most of it."""

    kernel: Kernel
    forward_process: ForwardProcess
    medium: Medium
    """The kind of its samples."""
    sample_shape: tuple[int, ...]
    """Shape of one sample in the space where denoising happens, for latents `(C, H, W)`."""
    device: torch.device
    trains_guidance: bool
    """Whether regressions train the guided prediction (CFG training, G.1), else the conditional one alone."""

    def encode(self, prompts: Sequence[Prompt]) -> Conditioning:
        """Return the conditioning of each prompt on the device; without tensors for an unconditional model."""
        ...

    def predict(self, x: Tensor, time_B: Tensor, conditioning: Conditioning, *, guided: bool) -> Tensor:
        """Return the network's prediction at `x` `(B, ...)`, float32: the guided one, or the conditional one alone."""
        ...

    def decode(self, x_0: Tensor) -> Tensor:
        """Turn final samples `(B, ...)` into what its medium holds, on the CPU: images `(B, 3, H, W)` in [0, 1]."""
        ...

    def parameters(self) -> Iterable[nn.Parameter]:
        """Return the trainable parameters, in float32."""
        ...

    def base_model(self) -> AbstractContextManager[None]:
        """Return a context in which the policy is the model before training; afterwards every bit is as it was.

        Enter it before the forward pass whose gradient is wanted: it may change the parameters in place.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write the trained weights so that the model's own library loads them."""
        ...
