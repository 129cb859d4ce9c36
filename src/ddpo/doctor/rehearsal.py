"""The recipe in small: one batch, its two last denoising steps, replayed and trained on once, in memory.

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
from ddpo.core.policy import Policy
from ddpo.doctor.checks import Outcome, failed, ok, warning
from ddpo.evaluation.sampling import load_policy
from ddpo.prompts import PromptSource
from ddpo.report.training_signs import NEAR_TOLERANCE
from ddpo.report.wording import number
from ddpo.rewards import load_reward
from ddpo.runtime.processes import Runtime
from ddpo.training.trainer import Trainer

STEPS = 2
"""Denoising steps of the rehearsal."""
REWARD = "jpeg-compressibility"
"""Scores the rehearsal's samples: at once, without weights, and never all alike. The recipe's own has its own check."""


@dataclass(frozen=True)
class Rehearsal:
    """What came of one small iteration."""

    samples: int
    steps: int
    """Denoising steps."""
    ratio_error: float | None
    """Largest |ratio - 1| before the update; None: the algorithm has no ratio."""
    tolerance: float | None
    """What the algorithm tolerates of it."""
    gradient_norm: float
    skipped: bool
    """Whether the update was left out while fp16 looks for its loss scale."""
    finite: bool
    """Whether the trained weights are finite after the update."""


def rehearse(config: TrainConfig, source: PromptSource, runtime: Runtime) -> Rehearsal:
    """Load the model, draw a batch, replay it and update once. Nothing is written; `config` is resolved.

    Raises:
        ModelError: the model cannot be loaded or trained.
        ReplayError: replaying the stored steps does not give the log-probabilities of the rollout.
        DivergenceError: the gradient is not finite.
    """
    small = in_small(config)
    policy: Policy = load_policy(small, runtime.device)
    policy.sampler = last_steps(policy.sampler, STEPS)
    trainer = Trainer(small, policy, load_reward(REWARD), source, runtime)
    with tempfile.TemporaryDirectory(prefix="ddpo-doctor-") as scratch:
        metrics = next(iter(trainer.train(lambda phase, done, total: None, Path(scratch))))
    tolerance = None
    if not isinstance(small.algorithm, WeightedRegression):
        tolerance = small.algorithm.ratio_tolerance(math.prod(policy.sample_shape))
    return Rehearsal(
        small.samples_per_iteration,
        len(policy.sampler),
        metrics.get("ratio/max_error_at_start"),
        tolerance,
        metrics["gradient_norm"],
        metrics["updates_skipped"] > 0,
        all(bool(torch.isfinite(parameter).all()) for parameter in policy.parameters()),
    )


def in_small(config: TrainConfig) -> TrainConfig:
    """Return a configuration of one update on one batch, otherwise as the run's; two samples at least can differ."""
    samples = max(2, min(config.batch_size, config.samples_per_iteration))
    algorithm = config.algorithm
    if isinstance(algorithm, WeightedRegression):
        algorithm = algorithm.model_copy(update={"samples_per_update": samples, "reweighting": "dataset"})
    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"local_files_only": True}),
            "algorithm": algorithm,
            "iterations": 1,
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


def judge(rehearsal: Rehearsal) -> Outcome:
    """Return whether the run would train on what it drew."""
    error, tolerance = rehearsal.ratio_error, rehearsal.tolerance
    seen = f"{rehearsal.samples} samples, {rehearsal.steps} denoising steps, 1 update"
    if error is not None and tolerance is not None:
        seen += f"; largest |ratio - 1| before it {number(error, 2)}, tolerated are {number(tolerance, 2)}"
    seen += f"; gradient norm {number(rehearsal.gradient_norm, 3)}"
    if not rehearsal.finite:
        return failed(f"The trained weights are not finite after one update ({seen}).", "Lower learning_rate.")
    if rehearsal.skipped:
        return ok(f"{seen.rpartition(';')[0]}; fp16 left the update out, as it does until it finds its loss scale")
    if rehearsal.gradient_norm == 0:
        return failed(
            f"No gradient reached the trained weights ({seen}).",
            "See that lora.target_modules names layers of the network.",
        )
    if error is not None and tolerance is not None and error > NEAR_TOLERANCE * tolerance:
        return warning(
            f"The replay is barely exact enough: {seen}.", "Use precision=fp32 and compile=false, or a wider clip."
        )
    return ok(seen)
