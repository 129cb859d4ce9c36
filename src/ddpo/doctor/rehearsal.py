"""The recipe in small: a batch, its two last denoising steps, replayed and trained on, in memory, and timed.

The last steps are the ones in which the importance ratio is most sensitive to rounding.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ddpo.algorithms import WeightedRegression
from ddpo.config import TrainConfig
from ddpo.core.forward_process import TimeGrid
from ddpo.core.kernel import Sampler
from ddpo.evaluation.sampling import load_policy
from ddpo.prompts import PromptSource, load_prompts
from ddpo.rewards import load_reward
from ddpo.runtime.processes import Runtime
from ddpo.training.trainer import Trainer

STEPS = 2
"""Denoising steps of the rehearsal."""
REWARD = "jpeg-compressibility"
"""Scores the rehearsal's samples: at once, without weights, and never all alike. The recipe's own has its own check."""
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
    policy.sampler = last_steps(policy.sampler, STEPS)
    prompt = load_prompts([source.prompts[0].text])  # one, so that the text encoder is in no timing but the first
    trainer = Trainer(small, policy, load_reward(REWARD), prompt, runtime)
    with tempfile.TemporaryDirectory(prefix="ddpo-doctor-") as scratch:
        for metrics in trainer.train(lambda phase, done, total: None, Path(scratch)):
            if sum(seconds for name, seconds in metrics.items() if name.startswith("time/")) > LONG:
                break
    tolerance = None
    if not isinstance(small.algorithm, WeightedRegression):
        tolerance = small.algorithm.ratio_tolerance(math.prod(policy.sample_shape))
    steps = small.sampler.model_copy(update={"steps": len(policy.sampler)})
    return Rehearsal(
        small.model_copy(update={"sampler": steps}),
        metrics.get("ratio/max_error_at_start"),
        tolerance,
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
    algorithm = config.algorithm
    if isinstance(algorithm, WeightedRegression):
        algorithm = algorithm.model_copy(update={"samples_per_update": samples, "reweighting": "dataset"})
    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"local_files_only": True}),
            "algorithm": algorithm,
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


def last_steps(sampler: Sampler, number: int) -> Sampler:
    """Return a sampler of the last `number` denoising steps that have a likelihood."""
    end = sampler.steps_with_likelihood
    steps, grid = slice(max(0, end - number), end), sampler.grid
    return replace(
        sampler, grid=TimeGrid(grid.timestep_T[steps], grid.alpha_bar_T[steps], grid.alpha_bar_next_T[steps])
    )
