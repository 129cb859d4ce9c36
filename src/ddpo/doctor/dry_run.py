"""Everything that a run looks at before it trains, looked at without training (docs/planning.md)."""

from __future__ import annotations

from dataclasses import dataclass

from ddpo.config import TrainConfig
from ddpo.doctor.architecture import Architecture, find_architecture
from ddpo.doctor.cost import CostPlan, make_plan
from ddpo.doctor.counting import count
from ddpo.doctor.rehearsal import rehearse
from ddpo.evaluation.loading import kernel_factory
from ddpo.policies.schedule import read_schedule
from ddpo.prompts import PromptSource, load_prompts
from ddpo.rewards import LoadedReward, load_reward
from ddpo.runs.folder import RunFolder
from ddpo.runtime.processes import Runtime


@dataclass(frozen=True)
class DryRun:
    """A run that was looked at and not started."""

    config: TrainConfig
    """With the precision, device and threads it would run with."""
    reward: LoadedReward
    measured: list[LoadedReward]
    """The rewards measured on the fixed samples."""
    prompts: PromptSource
    distinct_prompts: int
    """Prompts with different texts."""
    runtime: Runtime
    plan: CostPlan
    note: str
    """A sentence about what is not known or was assumed, if anything."""


def prepare(config: TrainConfig) -> DryRun:
    """Look at everything a run would look at before it loads the model, and plan it. Writes nothing, asks no network.

    Raises:
        DDPOError: what the run would refuse too.
    """
    reward, measured = load_reward(config.reward), [load_reward(spec) for spec in config.evaluation.rewards]
    source = load_prompts(config.prompts)
    distinct = len({prompt.text for prompt in source.prompts})
    if config.policy is None:
        architecture, note = find_architecture(config.model)
    else:
        architecture, note = None, "What a policy of your own costs is not counted."
    RunFolder.check(config.output)
    runtime = Runtime(device=config.device, threads=config.threads, precision=config.precision, tracker=config.tracker)
    runtime.shard(config.samples_per_iteration)
    runtime.shard(config.samples_per_update, "samples in an update")
    resolved = {"precision": runtime.precision, "device": runtime.device.type, "threads": runtime.threads}
    config = config.model_copy(update=resolved)
    figures = None
    if architecture is not None:
        figures = count(architecture, config.lora, gradient_checkpointing=config.gradient_checkpointing)
    steps = _steps_with_likelihood(config, architecture)
    plan = make_plan(config, prompts=distinct, steps_with_likelihood=steps, figures=figures)
    return DryRun(config, reward, measured, source, distinct, runtime, plan, note)


def _steps_with_likelihood(config: TrainConfig, architecture: Architecture | None) -> int:
    if architecture is None:
        return config.sampler.steps
    kernel = kernel_factory(config.sampler)(read_schedule(architecture.scheduler))
    return len(kernel.stochastic_L)


def expected_seconds(dry: DryRun) -> float:
    """Rehearse on this machine and return the seconds that the run should take, by its passes and samples.

    The rewards' own time, loading, text encoding and pictures are not in it.

    Raises:
        ModelError: the model's weights are not on this machine, or cannot be trained.
        DDPOError: what the run would stop for in its first update.
    """
    config, plan = dry.config, dry.plan
    rehearsal = rehearse(config, dry.prompts, dry.runtime)
    steps = rehearsal.config.sampler.steps
    timed = make_plan(rehearsal.config, prompts=1, steps_with_likelihood=steps, figures=None)
    rollout = rehearsal.rollout_seconds / timed.rollout.rows
    decode = rehearsal.decode_seconds / rehearsal.config.samples_per_iteration
    update = rehearsal.update_seconds / timed.training.rows
    fixed_samples = plan.fixed_rows * rollout + plan.evaluations * config.evaluation.number * decode
    iteration = plan.rollout.rows * rollout + plan.training.rows * update + config.samples_per_iteration * decode
    return config.iterations * iteration + fixed_samples
