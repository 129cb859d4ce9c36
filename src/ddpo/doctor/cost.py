"""What a run will do and what it will cost: arithmetic on a configuration and a model's figures (docs/planning.md)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ddpo.config import TrainConfig
from ddpo.core.rollout import even_batch
from ddpo.doctor.counting import Figures

_FLOAT32 = 4
"""Bytes of a float32."""


@dataclass(frozen=True)
class Passes:
    """Passes of the network."""

    number: int
    rows: int
    """Rows in all of them together: with guidance a sample is two rows; short batches are filled up."""


@dataclass(frozen=True)
class CostPlan:
    """What a run will do; what it will cost where the model's figures are known."""

    trained: int
    """(sample, timestep) pairs that an iteration trains on."""
    rollout: Passes
    """Of an iteration."""
    training: Passes
    """Forward and backward passes of an iteration."""
    evaluations: int
    """How often the fixed samples are drawn."""
    evaluation: Passes
    """Of drawing them once."""
    divergence: Passes
    """Of comparing them once with the base model, each time but the first, when they are its own."""
    encoded_prompts: int
    """Prompts that pass the text encoder, at most."""
    flops: dict[str, int]
    """By what they are spent on: parts of an iteration and of the run; 1 multiply-add = 2 FLOPs. Empty: not known."""
    memory: dict[str, int]
    """Bytes of one process's device in an update, when it needs most, by what takes them: an estimate."""
    result_bytes: int
    """Size of the trained numbers on disk; 0: not known."""

    @property
    def fixed_rows(self) -> int:
        """Rows through the network for the fixed samples of the whole run."""
        return self.evaluations * self.evaluation.rows + (self.evaluations - 1) * self.divergence.rows


def make_plan(config: TrainConfig, *, prompts: int, steps_with_likelihood: int, figures: Figures | None) -> CostPlan:
    """Return the plan of a run that has `prompts` distinct prompts; without `figures` its costs are not known.

    `steps_with_likelihood` is L, the denoising steps that can be trained on.
    """
    branches, samples, number = _branches(config), config.samples_per_iteration, config.evaluation.number
    trained, training = _training(config, steps_with_likelihood)
    rollout = _drawing(samples, config.batch_size, config.sampler.steps, branches)
    even = even_batch(number, config.batch_size)
    evaluation = _drawing(number, even, config.sampler.steps, branches)
    compared = steps_with_likelihood if config.evaluation.kl_to_base else 0
    divergence = _drawing(number, even, compared, branches)
    every = config.evaluation.every  # the fixed samples are drawn before, every so many iterations, and after
    evaluations = 2 if every is None else 1 + math.ceil(config.iterations / every)
    encoded = min(prompts, number + config.iterations * samples // config.samples_per_prompt) + branches - 1
    plan = CostPlan(trained, rollout, training, evaluations, evaluation, divergence, encoded, {}, {}, 0)
    if figures is None:
        return plan
    return replace(
        plan,
        flops=_flops(config, plan, figures),
        memory=_memory(config, steps_with_likelihood, figures, prompts),
        result_bytes=_FLOAT32 * figures.trained,
    )


def _flops(config: TrainConfig, plan: CostPlan, figures: Figures) -> dict[str, int]:
    rollout = plan.rollout.rows * figures.forward_flops
    update = plan.training.rows * (figures.forward_flops + figures.backward_flops)
    decode = config.samples_per_iteration * figures.decode_flops
    encode = plan.encoded_prompts * figures.encode_flops
    decoded = plan.evaluations * config.evaluation.number * figures.decode_flops
    fixed, iteration = decoded + plan.fixed_rows * figures.forward_flops, rollout + update + decode
    return {
        "rollout": rollout,
        "update": update,
        "decode": decode,
        "an iteration": iteration,
        "text encoder": encode,
        "fixed samples": fixed,
        "the run": config.iterations * iteration + encode + fixed,
    }


def _branches(config: TrainConfig) -> int:
    """Return the rows of the network for one sample: guidance needs the unconditional prediction too."""
    return 1 if config.guidance_scale == 1 else 2


def _trained_branches(config: TrainConfig) -> int:
    """Return the rows of the network for one sample in a training pass."""
    regression_on_one_branch = not config.algorithm.needs_steps and not config.cfg_training
    return 1 if regression_on_one_branch else _branches(config)


def _drawing(number: int, batch_size: int, steps: int, branches: int) -> Passes:
    """Return the passes that draw `number` samples; the last batch is filled up."""
    passes = math.ceil(number / batch_size) * steps
    return Passes(passes, passes * batch_size * branches)


def _training(config: TrainConfig, steps_with_likelihood: int) -> tuple[int, Passes]:
    """Return the (sample, timestep) pairs that an iteration trains on, and the passes that takes.

    DDPO replays a share of the steps of every sample (F.1) in full batches; regression draws its own noised samples,
    one timestep each (F.2), and does not fill up.
    """
    batch, branches = config.batch_size, _trained_branches(config)
    updates = config.updates * config.inner_epochs
    if not config.algorithm.needs_steps:
        size = config.samples_per_update
        return updates * size, Passes(updates * math.ceil(size / batch), updates * size * branches)
    kept = max(1, round(steps_with_likelihood * config.timestep_fraction))
    pairs = config.samples_per_iteration // config.updates * kept
    passes = updates * math.ceil(pairs / batch)
    return updates * pairs, Passes(passes, passes * batch * branches)


def _memory(config: TrainConfig, steps_with_likelihood: int, figures: Figures, prompts: int) -> dict[str, int]:
    """Return the estimate; in half precision a number of frozen weights and of activations takes 2 bytes."""
    half, trained = config.precision in ("bf16", "fp16"), _FLOAT32 * figures.trained
    number_bytes = _FLOAT32 // (2 if half else 1)
    D, embedding = math.prod(figures.sample_shape), math.prod(figures.embedding_shape)
    # Trajectory: T + 1 states, L means and log-probabilities; and an embedding of each prompt and of "".
    L, samples = steps_with_likelihood, config.samples_per_iteration
    trajectory = _FLOAT32 * ((config.sampler.steps + 1 + L) * D + L)
    drawn = min(prompts, samples // config.samples_per_prompt) + _branches(config) - 1
    if not config.algorithm.needs_steps:
        samples = min(samples, (1 + config.scoring.workers) * config.batch_size)  # being drawn and being scored
    rows = config.batch_size * _trained_branches(config)
    parts = {
        "weights": trained + _FLOAT32 * figures.text_encoder + number_bytes * figures.frozen,
        "optimizer": 3 * trained,  # gradients and AdamW's two moments
        "stored samples": samples * trajectory + _FLOAT32 * drawn * embedding,
        "activations": rows * figures.activation_bytes * number_bytes // _FLOAT32 + (trained // 2 if half else 0),
    }
    return parts | {"together": sum(parts.values())}
