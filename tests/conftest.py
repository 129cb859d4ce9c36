"""What every test folder shares: one thread, scheduler configurations, and a small convolutional policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pipeline import build_pipeline
from torch import Tensor, nn

from ddpo.config import TrainConfig, parse_config
from ddpo.core.conditioning import Conditioning
from ddpo.core.forward_process import VariancePreserving
from ddpo.core.kernel import Kernel, ddim
from ddpo.core.prompt import Prompt
from ddpo.media import Image
from ddpo.policies import NetworkPolicy
from ddpo.policies.schedule import read_schedule


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Run on one thread: sums come out in the same order everywhere and tests do not fight over the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def ddim_config() -> Callable[..., dict[str, Any]]:
    """Return the configuration of a DDIM scheduler on Stable Diffusion's betas, with the given changes."""

    def build(**changes: Any) -> dict[str, Any]:
        return {
            "_class_name": "DDIMScheduler",
            "num_train_timesteps": 1000,
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "clip_sample": False,
            "set_alpha_to_one": False,
            "steps_offset": 1,
            "timestep_spacing": "leading",
            "prediction_type": "epsilon",
        } | changes

    return build


class ConvNet(nn.Module):
    """A small convolutional denoiser that uses the timestep and, where it is given, the conditioning `scale`."""

    def __init__(self, channels: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = nn.Conv2d(channels, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.time = nn.Linear(2, 8)
        self.last = nn.Conv2d(8, channels, 3, padding=1)
        for parameter in self.parameters():
            with torch.no_grad():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))

    def forward(self, x: Tensor, timestep_B: Tensor, conditioning: Conditioning) -> Tensor:
        phase_B = timestep_B.float() / 1000 * torch.pi
        time = self.time(torch.stack([phase_B.sin(), phase_B.cos()], 1))[:, :, None, None]
        hidden = torch.nn.functional.silu(self.norm(self.first(x)) + time)
        out: Tensor = self.last(hidden)
        return out * conditioning["scale"][:, None, None, None] if "scale" in conditioning else out


class ConvPolicy(NetworkPolicy):
    """A `Policy` over a `ConvNet`; it counts the rows of every pass so that tests can see the batch sizes."""

    medium = Image()

    def __init__(
        self, schedule: VariancePreserving, kernel: Kernel, sample_shape: tuple[int, ...] = (3, 8, 8), seed: int = 0
    ) -> None:
        super().__init__(ConvNet(sample_shape[0], seed), kernel, schedule, sample_shape)
        self.rows_seen: list[int] = []

    def encode(self, prompts: Sequence[Prompt]) -> Conditioning:
        return Conditioning.of(scale=torch.tensor([1 + len(prompt.text) / 10 for prompt in prompts]))

    def predict(self, x: Tensor, time_B: Tensor, conditioning: Conditioning, *, guided: bool) -> Tensor:
        self.rows_seen.append(len(x))
        prediction: Tensor = self.network(x, time_B, conditioning)
        return prediction

    def decode(self, x_0: Tensor) -> Tensor:
        return (x_0 / 2 + 0.5).clamp(0, 1)


@pytest.fixture(scope="session")
def conv_policy() -> Callable[..., ConvPolicy]:
    """Build a `ConvPolicy` with `steps` denoising steps on a scheduler configuration."""

    def build(config: dict[str, Any], *, steps: int, eta: float = 1.0, seed: int = 0) -> ConvPolicy:
        schedule = read_schedule(config)
        return ConvPolicy(schedule, ddim(schedule, steps, eta), seed=seed)

    return build


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return the folder of a random Stable Diffusion v1-style pipeline, built once for each choice of scheduler."""
    folders: dict[tuple[tuple[str, Any], ...], Path] = {}

    def folder(**scheduler: Any) -> Path:
        key = tuple(sorted(scheduler.items()))
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp("pipeline")
            build_pipeline(**scheduler).save_pretrained(folders[key])
        return folders[key]

    return folder


@pytest.fixture
def tiny_config(tiny_pipeline: Callable[..., Path], tmp_path: Path) -> Callable[..., TrainConfig]:
    """Return the configuration of a two-iteration run on a tiny pipeline, with the given changes."""

    def config(**changes: Any) -> TrainConfig:
        scheduler = changes.pop("scheduler", {})
        tree: dict[str, Any] = {
            "name": "tiny",
            "output": tmp_path / "run",
            "model": str(tiny_pipeline(**scheduler)),
            "prompts": ["a cat", "a dog", "an ant"],
            "iterations": 2,
            "samples_per_iteration": 8,
            "batch_size": 4,
            "sampler": {"steps": 4},
            "learning_rate": 1e-3,
            "algorithm": {"name": "ddpo-is", "clip_nats": 1.64},
            "evaluation": {"number": 2, "every": 1},
            "threads": 1,
            "device": "cpu",
        }
        return parse_config(tree | changes)

    return config
