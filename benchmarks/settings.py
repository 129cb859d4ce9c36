"""What one measured run does and what it reports: the two ends of a worker process, without heavy imports."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from typing import Any

PHASES = ("rollout", "decode", "reward", "update")
"""The parts of an iteration that both systems have."""


@dataclass(frozen=True)
class Settings:
    """One run of one system. Both systems read the same fields, so that neither can be given other work."""

    model: str
    """A folder in diffusers format."""
    prompts: tuple[str, ...]
    """Each sample's prompt is drawn from these."""
    device: str
    """`cpu` or `cuda`."""
    threads: int
    """CPU threads of torch."""
    samples: int
    """Samples an iteration."""
    updates: int
    """Optimizer steps an iteration."""
    steps: int
    """Denoising steps of a sample."""
    guidance_scale: float
    lora_rank: int | None
    """None: the whole UNet is trained."""
    precision: str
    """`fp32`, `tf32`, `bf16` or `fp16`."""
    iterations: int
    """Counted iterations; one more, the first, warms up."""
    sample_batch: int
    """Samples that go through the network together in the rollout."""
    train_batch: int
    """Rows that go through it together in the update: (sample, step) pairs in ddpo, samples of one step in TRL."""
    clip_nats: float = 1.64
    """The paper's clip, 1e-4 on the mean over 16384 dimensions."""
    learning_rate: float = 1e-5
    """Small, so that no run changes what it samples; speed does not depend on it."""

    @classmethod
    def from_command_line(cls) -> Settings:
        """Read the settings a worker was started with: one JSON argument."""
        tree = json.loads(sys.argv[1])
        return cls(**tree | {"prompts": tuple(tree["prompts"])})

    def to_json(self) -> str:
        return json.dumps(asdict(self))


@dataclass
class Measurement:
    """What a worker prints, as one JSON line."""

    seconds: list[dict[str, float]] = field(default_factory=list)
    """For each counted iteration the seconds of every phase and `total`, which also holds what is in no phase."""
    reward_mean: float = 0.0
    """Mean reward of the counted iterations: both systems must find the same, up to noise, or they differ in work."""
    loaded_memory_GB: float = 0.0
    """Resident memory with libraries and model loaded, before the first iteration."""
    peak_memory_GB: float = 0.0
    """Largest resident memory of the process till the end of training."""
    peak_device_memory_GB: float | None = None
    """Largest memory allocated on the GPU."""
    matrix_TFLOPS: float = 0.0
    """Rate of a large matrix product in the run's precision, in the same process with the same threads."""
    forward_GFLOP: float = 0.0
    """UNet forward of one latent."""
    forward_backward_GFLOP: float = 0.0
    """UNet forward and backward of one latent with the run's trainable weights."""
    ratio_error: float | None = None
    """Largest |ratio - 1| of the replay before the first update of ddpo; None where there is none."""
    noise_floor: float | None = None
    """Noise of the arithmetic in ddpo's importance ratio, a standard deviation."""
    versions: dict[str, str] = field(default_factory=dict)

    def emit(self) -> None:
        """Print the line that `throughput.py` reads."""
        print(json.dumps(asdict(self)), flush=True)

    @classmethod
    def from_output(cls, output: str) -> Measurement:
        """Find the measurement in a worker's output: libraries print too."""
        start = output.rfind('{"seconds"')
        if start < 0:
            raise ValueError("the worker printed no measurement")
        tree: dict[str, Any] = json.JSONDecoder().raw_decode(output[start:])[0]
        return cls(**tree)
