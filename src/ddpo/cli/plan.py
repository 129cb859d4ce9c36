"""`ddpo train --dry-run`: what the run would do and what it would cost, as tables."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from ddpo.config import TrainConfig
    from ddpo.doctor.dry_run import DryRun

Rows = dict[str, str]


def print_plan(config: TrainConfig) -> None:
    """Print the plan of a run; with the model's weights on this machine also how long it should take.

    Raises:
        DDPOError: what the run would refuse too.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub's client is imported: looking must ask no network
    from ddpo.doctor.dry_run import expected_seconds, prepare
    from ddpo.report.wording import duration
    from ddpo.runtime.errors import ModelError

    dry = prepare(config)
    plan, unknown = dry.plan, "not known: the model's architecture is not"
    flops = {name: quantity(number, "FLOP") for name, number in plan.flops.items()}
    memory = {name: quantity(size, "B") for name, size in plan.memory.items()}
    _print("the run", _what(dry))
    _print("an iteration", _iteration(dry))
    _print("compute (1 multiply-add = 2 FLOPs)", flops or {"FLOPs": unknown})
    _print("memory of one process in an update, a rough estimate", memory or {"memory": unknown})
    if plan.result_bytes:
        _print("disk", {"trained weights": quantity(plan.result_bytes, "B")})
    try:
        took = f"about {duration(expected_seconds(dry))} without the reward, from two small iterations on this machine"
    except ModelError as error:
        took = f"not known: {error}"
    _print("time", {"duration": took})
    if dry.note:
        typer.echo(dry.note)


def _print(title: str, rows: Rows) -> None:
    typer.secho(title, bold=True)
    for name, value in rows.items():
        typer.echo(f"  {name:<23}{value}")
    typer.echo()


def _what(dry: DryRun) -> Rows:
    config, plan = dry.config, dry.plan
    trained = "the whole network" if config.lora.rank is None else f"LoRA of rank {config.lora.rank}"
    threads = f", threads: {config.threads}" if config.device == "cpu" else ""
    return {
        "model": f"{config.model.name}, {trained}, {config.precision} on {config.device}{threads}",
        "prompts": f"{dry.prompts.name}, {dry.distinct_prompts:,} distinct",
        "reward": f"{dry.reward.key}: {dry.reward.label}",
        "algorithm": config.algorithm.name,
        "iterations": f"{config.iterations:,}",
        "reward queries": f"{config.iterations * config.samples_per_iteration:,}",
        "fixed samples": f"{config.evaluation.number:,}, drawn {plan.evaluations:,} times",
    }


def _iteration(dry: DryRun) -> Rows:
    config, plan = dry.config, dry.plan
    return {
        "samples": f"{config.samples_per_iteration:,} in batches of {config.batch_size:,}",
        "denoising steps": f"{config.sampler.steps:,} ({config.sampler.name})",
        "guidance scale": "off" if config.guidance_scale == 1 else str(config.guidance_scale),
        "updates": f"{config.updates * config.inner_epochs:,} at learning rate {config.learning_rate:g}",
        "rollout": f"{plan.rollout.number:,} network passes, {plan.rollout.rows:,} rows",
        "training": f"{plan.training.number:,} network passes forward and backward, {plan.training.rows:,} rows, "
        f"{plan.trained:,} (sample, timestep) pairs",
    }


def quantity(number: float, unit: str) -> str:
    """Return `82.8 PFLOP`, `49.9 kB`: the number to three significant digits with the unit's decimal prefix."""
    if number < 1000:
        return f"{number:.0f} {unit}"
    value, prefixes = float(f"{number:.3g}"), iter("kMGTPEZ")
    while value >= 1000:
        value, prefix = value / 1000, next(prefixes)
    return f"{value:.{3 - len(str(int(value)))}f} {prefix}{unit}"
