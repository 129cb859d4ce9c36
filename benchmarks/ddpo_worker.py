"""Time this project's training loop in a process of its own. Started by throughput.py with its settings as JSON."""

from __future__ import annotations

import time

import ddpo
import measure
from ddpo.config import TrainConfig, parse_config
from ddpo.evaluation.loading import load_policy
from ddpo.prompts import Prompt, load_prompts
from ddpo.rewards import load_reward
from ddpo.runtime.processes import Runtime
from ddpo.training.trainer import Trainer
from settings import PHASES, Measurement, Settings


def configuration(settings: Settings) -> TrainConfig:
    """Return the run as a user would write it; what is not named here is the package's default."""
    if settings.sample_batch != settings.train_batch:
        raise SystemExit("ddpo replays with the batch size of its rollout: sample_batch and train_batch must be equal")
    return parse_config(
        {
            "model": settings.model,
            "prompts": list(settings.prompts),
            "reward": "jpeg-compressibility",
            "algorithm": {"name": "ddpo-is", "clip_nats": settings.clip_nats},
            "iterations": settings.iterations + 1,
            "samples_per_iteration": settings.samples,
            "updates_per_iteration": settings.updates,
            "batch_size": settings.train_batch,
            "sampler": {"steps": settings.steps},
            "guidance_scale": settings.guidance_scale,
            "learning_rate": settings.learning_rate,
            "lora": {"rank": settings.lora_rank},
            "precision": settings.precision,
            "device": settings.device,
            "threads": settings.threads,
        }
    )


def build(config: TrainConfig) -> Trainer:
    """Load what `ddpo.train` loads, without its run folder: figures and files are no part of the comparison."""
    runtime = Runtime(device=config.device, threads=config.threads, precision=config.precision, tracker=None)
    policy = load_policy(config, runtime.device)
    return Trainer(config, policy, load_reward(config.reward), load_prompts(config.prompts), runtime)


def timed_iterations(trainer: Trainer, device: str) -> list[tuple[dict[str, float], dict[str, float]]]:
    """Return each iteration's seconds by phase, from the trainer's own metrics, and these metrics."""
    results, start = [], time.perf_counter()
    for metrics in trainer.train(lambda phase, done, total: measure.synchronize(device)):
        measure.synchronize(device)
        now = time.perf_counter()
        phases = {phase: metrics[f"time/{phase}"] for phase in PHASES}
        results.append((phases | {"total": now - start}, metrics))
        start = now
    return results


def main() -> None:
    settings, measurement = Settings.from_command_line(), Measurement()
    memory = measure.Memory(measurement, settings.device)
    trainer = build(configuration(settings))
    memory.loaded()
    (_, first), *counted = timed_iterations(trainer, settings.device)
    memory.finish()
    measurement.seconds = [seconds for seconds, _ in counted]
    measurement.reward_mean = sum(metrics["reward/mean"] for _, metrics in counted) / len(counted)
    measurement.ratio_error = first.get("ratio/max_error_at_start")
    measurement.noise_floor = first.get("ratio/noise_floor")
    measurement.matrix_TFLOPS = measure.matrix_rate(settings)
    embedding = trainer.policy.encode([Prompt(settings.prompts[0])])["prompt"]
    work = measure.unet_work(trainer.policy.pipeline.unet, embedding)
    measurement.forward_GFLOP, measurement.forward_backward_GFLOP = work
    measurement.versions = {"ddpo": ddpo.__version__, **measure.versions()}
    measurement.emit()


if __name__ == "__main__":
    main()
