"""How a model is sampled and trained, whatever its family."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch

from ddpo.core.kernel import KernelFactory, ddim
from ddpo.policies.lora import LoRA

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
DTYPES: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


PAPER_KERNEL: KernelFactory = partial(ddim, steps=50)
"""The paper's 50 steps (F.6)."""


@dataclass(frozen=True)
class PolicySettings:
    """What a policy is made with, besides the model."""

    kernel: KernelFactory = PAPER_KERNEL
    """Makes the kernel on the model's noise schedule."""
    guidance_scale: float = 5.0
    """w of eq. 5; 1 switches guidance off."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Shares of the denoising run at which guidance begins and ends."""
    cfg_training: bool = True
    """Train the guided prediction through both branches (G.1). False: replay holds the unconditional one fixed, and
    regression trains the conditional one alone."""
    precision: Precision = "fp32"
    """Arithmetic of the network; trainable weights, latents and log-probabilities stay in float32."""
    lora: LoRA = field(default_factory=LoRA)
    seed: int = 0
    """Seed of first weights: adapters, or a network that is trained from scratch."""
    gradient_checkpointing: bool = False
    compile: bool = False
    keep_base: bool = False
    """Keep a copy of the weights in the CPU's memory, so that `base_model` works without adapters."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
