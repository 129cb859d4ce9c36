"""`ddpo train --dry-run`: what the run would do and what it would cost, as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from ddpo.config import TrainConfig
    from ddpo.doctor.plan import DryRun, Plan

Rows = list[tuple[str, str]]


def print_plan(config: TrainConfig) -> None:
    """Print the plan of a run; with the model's weights on this machine also how long it should take.

    Raises:
        DDPOError: what the run would refuse too.
    """
    from rich.console import Console

    from ddpo.doctor.plan import expected_seconds, prepare

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=160)  # a file or pipe has no edge to wrap at
    dry = prepare(config)
    _print(console, "the run", _what(dry))
    _print(console, "an iteration", _iteration(dry))
    _print(console, "compute (1 multiply-add = 2 FLOPs)", _compute(dry.plan))
    _print(console, "memory (estimate, see below) and disk", _memory(dry.plan))
    if dry.weights_here:
        with console.status("timing a few steps"):
            seconds = expected_seconds(dry.config, dry.plan)
        took = f"about {span(seconds)} without the reward, from a few steps timed on this machine"
    else:
        took = "not known, because the model's weights are not on this machine"
    _print(console, "time", [("duration", took)])
    for note in _notes(dry):
        console.print(note)


def _print(console: Console, title: str, rows: Rows) -> None:
    from rich.table import Table

    table = Table(box=None, show_header=False, title=title, title_justify="left", title_style="bold", pad_edge=False)
    table.add_column(width=22, no_wrap=True)
    table.add_column()
    for name, value in rows:
        table.add_row(f"  {name}", value)
    console.print(table)
    console.print()


def _what(dry: DryRun) -> Rows:
    config, plan = dry.config, dry.plan
    trained = "the whole network" if config.lora.rank is None else f"LoRA of rank {config.lora.rank}"
    threads = f", threads: {config.threads}" if config.device == "cpu" else ""
    return [
        ("model", f"{config.model.name}, {trained}, {config.precision} on {config.device}{threads}"),
        ("prompts", f"{dry.prompts.name}, {len({prompt.text for prompt in dry.prompts.prompts}):,} distinct"),
        ("reward", f"{dry.reward.key}: {dry.reward.label}"),
        ("algorithm", config.algorithm.name),
        ("iterations", f"{plan.iterations:,}"),
        ("reward queries", _about(plan.reward_queries)),
        ("fixed samples", f"{config.evaluation.number:,}, drawn {plan.evaluations:,} times"),
    ]


def _iteration(dry: DryRun) -> Rows:
    config, plan = dry.config, dry.plan
    guidance = "off" if config.guidance_scale == 1 else str(config.guidance_scale)
    return [
        ("samples", f"{plan.samples:,} in batches of {config.batch_size:,}"),
        ("denoising steps", f"{config.sampler.steps:,} ({config.sampler.name})"),
        ("guidance scale", guidance),
        ("updates", f"{plan.updates:,} at learning rate {config.learning_rate:g}"),
        ("rollout", f"{plan.rollout.number:,} network passes, {plan.rollout.rows:,} rows"),
        (
            "training",
            f"{plan.training.number:,} network passes forward and backward, {plan.training.rows:,} rows, "
            f"{plan.trained:,} (sample, timestep) pairs",
        ),
    ]


def _compute(plan: Plan) -> Rows:
    flops, total = plan.flops, plan.total_flops
    if flops is None or total is None:
        return [("FLOPs", "not known: the model's architecture is not")]
    return [
        ("an iteration", quantity(flops.iteration, "FLOP")),
        ("  rollout", quantity(flops.rollout, "FLOP")),
        ("  update", quantity(flops.update, "FLOP")),
        ("  decode", quantity(flops.decode, "FLOP")),
        ("the run", quantity(total, "FLOP")),
        ("  iterations", quantity(plan.iterations * flops.iteration, "FLOP")),
        ("  text encoder", f"{quantity(flops.encode, 'FLOP')}, {plan.encoded_prompts:,} prompts once each"),
        ("  fixed samples", quantity(flops.fixed_samples, "FLOP")),
    ]


def _memory(plan: Plan) -> Rows:
    memory = plan.memory
    if memory is None or plan.result_bytes is None:
        return [("memory", "not known: the model's architecture is not")]
    rows = [
        ("together", quantity(memory.total, "B")),
        ("  weights", quantity(memory.weights, "B")),
        ("  gradients", quantity(memory.gradients, "B")),
        ("  optimizer", quantity(memory.optimizer, "B")),
        ("  stored samples", quantity(memory.samples, "B")),
        ("  activations", f"{quantity(memory.activations, 'B')} of one training pass"),
    ]
    if memory.clean_samples:
        rows.append(("  clean samples", f"{quantity(memory.clean_samples, 'B')} of main memory"))
    if memory.base_copy:
        rows.append(("  copy of the base", f"{quantity(memory.base_copy, 'B')} of main memory"))
    return [*rows, ("result on disk", quantity(plan.result_bytes, "B"))]


def _notes(dry: DryRun) -> list[str]:
    estimate = (
        "Memory: tensors counted from the model's configuration for one process; an operation's working memory, the "
        "libraries and fragmentation come on top."
    )
    return [*dry.notes, *([estimate] if dry.plan.memory is not None else [])]


def _about(number: int) -> str:
    """Return `about 50k (49,920)`; a number that two digits state exactly as it is."""
    short = quantity(number, "", digits=2).replace(" ", "")
    return f"{number:,}" if number < 1000 else f"about {short} ({number:,})"


def quantity(number: float, unit: str, *, digits: int = 3) -> str:
    """Return `82.8 PFLOP`, `49.9 k`: the number to so many significant digits with the unit's decimal prefix."""
    prefixes = ["", "k", "M", "G", "T", "P", "E", "Z"]
    value, place = float(f"{number:.{digits}g}"), 0
    while value >= 1000 and place < len(prefixes) - 1:
        value, place = value / 1000, place + 1
    whole = len(str(int(value)))
    return f"{value:.{max(0, digits - whole) if number >= 1000 else 0}f} {prefixes[place]}{unit}".rstrip()


def span(seconds: float) -> str:
    """Return `12 s`, `6 min 40 s`, `3 h 20 min` or `2 days 4 h`; below ten seconds with a decimal."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} days {hours % 24} h"
