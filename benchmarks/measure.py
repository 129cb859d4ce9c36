"""Measurements that both workers make in the same way: memory, the machine's matrix rate, the UNet's work.

Imported in both environments: only torch, diffusers and the standard library.
"""

from __future__ import annotations

import resource
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from settings import Measurement, Settings

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Memory:
    """Memory of this process; `finish` before anything is measured that training does not need."""

    def __init__(self, measurement: Measurement, device: str) -> None:
        self.measurement, self.device = measurement, device

    def loaded(self) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.measurement.loaded_memory_GB = pages * resource.getpagesize() / 1e9

    def finish(self) -> None:
        self.measurement.peak_memory_GB = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        if self.device == "cuda":
            self.measurement.peak_device_memory_GB = torch.cuda.max_memory_allocated() / 1e9


def synchronize(device: str) -> None:
    """Wait for the GPU, whose work is queued: without it a phase's time would end up in the next one."""
    if device == "cuda":
        torch.cuda.synchronize()


def matrix_rate(settings: Settings, seconds: float = 1.5) -> float:
    """Return the fastest rate of square matrix products, in TFLOP/s: what the machine can do at best.

    The fastest, not the median: a disturbance can only make it slower.
    """
    size = 8192 if settings.device == "cuda" else 2048
    dtype = DTYPES[settings.precision]
    a, b = (torch.randn(size, size, device=settings.device).to(dtype) for _ in range(2))
    fastest, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        synchronize(settings.device)
        start = time.perf_counter()
        a @ b
        synchronize(settings.device)
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * size**3 / fastest / 1e12


def unet_work(unet: Any, embedding: Tensor) -> tuple[float, float]:
    """Return GFLOP of the UNet's forward, and of forward and backward, for one latent.

    `embedding` `(1, S, E)` is a prompt's. The counter does not see fused attention on a CPU, therefore the plain
    attention processor; the work is the same.
    """
    from diffusers.models.attention_processor import AttnProcessor

    unet.to(torch.float32).set_attn_processor(AttnProcessor())
    size, channels, device = unet.config.sample_size, unet.config.in_channels, next(unet.parameters()).device
    latent = torch.randn(1, channels, size, size, device=device)
    inputs = (latent, torch.ones(1, device=device), embedding.to(device, torch.float32))
    with torch.no_grad(), FlopCounterMode(display=False) as forward:
        unet(*inputs)
    with FlopCounterMode(display=False) as both:
        unet(*inputs).sample.square().mean().backward()
    return forward.get_total_flops() / 1e9, both.get_total_flops() / 1e9


def versions(*names: str) -> dict[str, str]:
    """Return the installed versions of the packages that matter to speed."""
    return {name: metadata.version(name) for name in (*names, "torch", "diffusers", "transformers", "peft", "pillow")}
