"""Time TRL's DDPOTrainer in a process of its own, in the environment that environment.py makes.

The trainer is used as its documentation shows; its methods are wrapped with clocks and nothing else is touched.
"""

from __future__ import annotations

import io
import random
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from peft import LoraConfig
from PIL import Image
from trl import DDPOConfig, DDPOTrainer, DefaultDDPOStableDiffusionPipeline

import measure
from settings import Measurement, Settings


class Pipeline(DefaultDDPOStableDiffusionPipeline):
    """TRL's own pipeline, whose adapters have rank 4 always, with the rank as an argument."""

    def __init__(self, model: str, rank: int | None) -> None:
        super().__init__(model, use_lora=rank is not None)
        self.rank = rank

    def get_trainable_layers(self) -> Any:
        if self.rank in (None, 4):
            return super().get_trainable_layers()
        targets = ["to_k", "to_q", "to_v", "to_out.0"]
        self.unet.add_adapter(LoraConfig(r=self.rank, lora_alpha=self.rank, target_modules=targets))
        return self.unet


def jpeg_compressibility(images: torch.Tensor, prompts: tuple[str], metadata: tuple[Any]) -> tuple[Any, dict[str, Any]]:
    """Return `-size_B` in kB and no metadata: ddpo.rewards.jpeg, line for line, as TRL wants a reward."""
    del prompts, metadata
    sizes = []
    for image_CHW in images.float().cpu().numpy():
        levels_CHW = np.rint(np.clip(image_CHW, 0.0, 1.0) * 255.0).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(levels_CHW.transpose(1, 2, 0))).save(buffer, "JPEG", quality=95)
        sizes.append(-buffer.tell() / 1000)
    return torch.tensor(sizes), {}


class Clocks:
    """Seconds spent in wrapped methods since the last `take`."""

    def __init__(self, device: str) -> None:
        self.device, self.seconds = device, defaultdict[str, float](float)

    def wrap(self, owner: Any, method: str, name: str) -> None:
        """Add the time of `owner.method` to `name`."""
        function: Callable[..., Any] = getattr(owner, method)

        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            measure.synchronize(self.device)
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                measure.synchronize(self.device)
                self.seconds[name] += time.perf_counter() - start

        setattr(owner, method, timed)

    def take(self, total: float) -> dict[str, float]:
        """Return the phases of an iteration. TRL decodes inside `_generate_samples`: that part is taken out."""
        phases = dict(self.seconds) | {"total": total}
        phases["rollout"] -= phases["decode"]
        self.seconds.clear()
        return phases


def trainer_config(settings: Settings, dimensions: int) -> DDPOConfig:
    """Return the same run in TRL's words."""
    accumulated, rest = divmod(settings.samples, settings.updates * settings.train_batch)
    if rest or settings.samples % settings.sample_batch:
        raise SystemExit("TRL needs sample_batch to divide samples, and train_batch to divide samples / updates")
    return DDPOConfig(
        mixed_precision={"fp32": "no"}.get(settings.precision, settings.precision),
        accelerator_kwargs={"cpu": settings.device == "cpu"},
        sample_num_steps=settings.steps,
        sample_eta=1.0,
        sample_guidance_scale=settings.guidance_scale,
        sample_batch_size=settings.sample_batch,
        sample_num_batches_per_epoch=settings.samples // settings.sample_batch,
        train_batch_size=settings.train_batch,
        train_gradient_accumulation_steps=accumulated,
        train_learning_rate=settings.learning_rate,
        train_clip_range=settings.clip_nats / dimensions,
        per_prompt_stat_tracking=True,
        per_prompt_stat_tracking_buffer_size=32,
        save_freq=10**9,
    )


def build(settings: Settings) -> DDPOTrainer:
    PartialState(cpu=settings.device == "cpu")  # TRL's pipeline logs a warning, which accelerate refuses before this
    pipeline, draw = Pipeline(settings.model, settings.lora_rank), random.Random(0)
    dimensions = pipeline.unet.config.in_channels * pipeline.unet.config.sample_size**2
    return DDPOTrainer(
        trainer_config(settings, dimensions),
        jpeg_compressibility,
        lambda: (draw.choice(settings.prompts), {}),
        pipeline,
    )


def timed_iterations(trainer: DDPOTrainer, settings: Settings) -> list[tuple[dict[str, float], float]]:
    """Return each iteration's seconds by phase and its mean reward."""
    clocks, rewards, results, updates = Clocks(settings.device), [], [], 0
    score = trainer.reward_fn

    def recorded(*args: Any) -> Any:
        reward, metadata = score(*args)
        rewards.append(reward)
        return reward, metadata

    trainer.reward_fn = recorded
    clocks.wrap(trainer.sd_pipeline.vae, "decode", "decode")
    clocks.wrap(trainer, "_generate_samples", "rollout")
    clocks.wrap(trainer, "_train_batched_samples", "update")
    compute = trainer.compute_rewards
    # `compute_rewards` returns a lazy zip: made a tuple here, as nothing of it may be timed elsewhere.
    trainer.compute_rewards = lambda *args, **kwargs: tuple(compute(*args, **kwargs))
    clocks.wrap(trainer, "compute_rewards", "reward")
    for iteration in range(settings.iterations + 1):
        rewards.clear()
        start = time.perf_counter()
        updates = trainer.step(iteration, updates)
        measure.synchronize(settings.device)
        results.append((clocks.take(time.perf_counter() - start), float(torch.cat(rewards).mean())))
    if updates != settings.updates * (settings.iterations + 1):
        raise SystemExit(f"TRL made {updates} updates, not {settings.updates} an iteration")
    return results


def main() -> None:
    warnings.simplefilter("ignore")
    settings, measurement = Settings.from_command_line(), Measurement()
    torch.set_num_threads(settings.threads)
    memory = measure.Memory(measurement, settings.device)
    trainer = build(settings)
    memory.loaded()
    counted = timed_iterations(trainer, settings)[1:]
    memory.finish()
    measurement.seconds = [seconds for seconds, _ in counted]
    measurement.reward_mean = sum(reward for _, reward in counted) / len(counted)
    measurement.matrix_TFLOPS = measure.matrix_rate(settings)
    work = measure.unet_work(trainer.sd_pipeline.unet, trainer.neg_prompt_embed)
    measurement.forward_GFLOP, measurement.forward_backward_GFLOP = work
    measurement.versions = measure.versions("trl")
    measurement.emit()


if __name__ == "__main__":
    main()
