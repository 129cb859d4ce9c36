"""The recipe in small: a batch, its two last denoising steps, replayed and trained on, in memory, and timed.

The last steps are the ones in which the importance ratio is most sensitive to rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddpo.config import TrainConfig
from ddpo.core.kernel import Kernel
from ddpo.evaluation.loading import load_policy
from ddpo.prompts import PromptSource, load_prompts
from ddpo.rewards import load_reward
from ddpo.runtime.processes import Runtime
from ddpo.training.trainer import Trainer

STEPS = 2
"""Denoising steps of the rehearsal."""
LONG = 10.0
"""Seconds beyond which the first iteration is not made again without its warm-up, which is nothing against it."""


@dataclass(frozen=True)
class Rehearsal:
    """What came of one small iteration, the second one where the first was quick."""

    config: TrainConfig
    """With the samples and denoising steps it had."""
    ratio_error: float | None
    """Largest |ratio - 1| before the update; None: the algorithm has no ratio."""
    tolerance: float | None
    """What the algorithm tolerates of it."""
    gradient_norm: float
    skipped: bool
    """Whether the update was left out while fp16 looks for its loss scale."""
    finite: bool
    """Whether the trained weights are finite after the update."""
    rollout_seconds: float
    decode_seconds: float
    update_seconds: float


def rehearse(config: TrainConfig, source: PromptSource, runtime: Runtime) -> Rehearsal:
    """Load the model from this machine, draw a batch, replay it and update. Nothing is written; `config` is resolved.

    Raises:
        ModelError: the model is not on this machine, or cannot be loaded or trained.
        ReplayError: replaying the stored steps does not give the log-probabilities of the rollout.
        DivergenceError: the gradient is not finite.
    """
    small = in_small(config)
    policy = load_policy(small, runtime.device)
    policy.kernel = last_steps(policy.kernel, STEPS)
    prompt = load_prompts([source.prompts[0]])  # one, so that the text encoder is in no timing but the first
    trainer = Trainer(small, policy, load_reward(brightness), prompt, runtime)
    for metrics in trainer.train(lambda phase, done, total: None):
        if sum(seconds for name, seconds in metrics.items() if name.startswith("time/")) > LONG:
            break
    error = metrics.get("ratio/max_error_at_start")
    steps = small.sampler.model_copy(update={"steps": len(policy.kernel)})
    return Rehearsal(
        small.model_copy(update={"sampler": steps}),
        error,
        None if error is None else small.algorithm.ratio_tolerance(math.prod(policy.sample_shape)),
        metrics["gradient_norm"],
        metrics["updates_skipped"] > 0,
        all(bool(torch.isfinite(parameter).all()) for parameter in policy.parameters()),
        metrics["time/rollout"],
        metrics["time/decode"],
        metrics["time/update"],
    )


def in_small(config: TrainConfig) -> TrainConfig:
    """Return a configuration of updates on one batch, otherwise as the run's; two samples at least can differ."""
    samples = max(2, min(config.batch_size, config.samples_per_iteration))
    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"local_files_only": True}),
            "algorithm": config.algorithm.in_small(samples),
            "iterations": 2,
            "samples_per_iteration": samples,
            "samples_per_prompt": 1,
            "updates_per_iteration": 1,
            "inner_epochs": 1,
            "timestep_fraction": 1.0,
            "on_nonfinite": "stop",
            "advantage": config.advantage.model_copy(update={"name": "batch"}),
        }
    )


def last_steps(kernel: Kernel, number: int) -> Kernel:
    """Return a kernel of the last `number` denoising steps that have a likelihood."""
    step_T = kernel.stochastic_L[-number:]
    return Kernel(kernel.time_T[step_T], kernel.x_T[step_T], kernel.prediction_T[step_T], kernel.std_T[step_T])


def brightness(samples: Tensor, prompts: list[str], metadata: list[dict[str, Any]]) -> Tensor:
    """Return the mean of each sample `(B,)`: a reward of any medium, at once, and never alike for all."""
    del prompts, metadata
    return samples.flatten(1).mean(1)
