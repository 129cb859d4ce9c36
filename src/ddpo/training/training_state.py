"""What a checkpoint keeps of a trainer, and putting it back: nothing else decides how a run goes on.

Prompts, noise, timesteps and orders come from seeds derived from the run's seed, the iteration and the sample
(`randomness.py`), so no generator's state is kept.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from ddpo.core.advantages import RunningStatistics
from ddpo.policies.parameters import load_training
from ddpo.runtime.errors import CheckpointError
from ddpo.training.trainer import Trainer


def save_samples(trainer: Trainer, folder: Path) -> dict[str, Any] | None:
    """Write this process's part of the iteration in the making; return the rest of it, None if there is none."""
    if trainer.experience is None:
        return None
    return trainer.experience.save(folder / _samples_of(trainer.experience.first))


def state_of(trainer: Trainer, unfinished: list[dict[str, Any] | None]) -> dict[str, Any]:
    """Return all else as plain values; `unfinished` is what `save_samples` returned in each process."""
    return {
        "iteration": trainer.finished,
        "reward_statistics": dict(trainer.collector.credit.statistics.history),
        "reward_statistics_before": dict(trainer.statistics_before.history) if trainer.experience else None,
        "loss_scale": trainer.runtime.loss_scale,
        "batch_size": trainer.control.batch_size,
        "unfinished": None if unfinished[0] is None else unfinished,
    }


def restore(trainer: Trainer, folder: Path, state: Mapping[str, Any], scratch: Path) -> None:
    """Put a checkpoint's tensors and plain values into a fresh trainer.

    Raises:
        CheckpointError: it was written by another model, or in the middle of an iteration by another number of
            processes.
    """
    updater, credit, runtime = trainer.updater, trainer.collector.credit, trainer.runtime
    load_training(updater.parameters, updater.optimizer, folder)
    credit.statistics = _with_history(credit.statistics, state["reward_statistics"])
    runtime.loss_scale = state["loss_scale"]
    trainer.control.batch_size = min(trainer.control.batch_size, state["batch_size"])
    trainer.finished = state["iteration"]
    if state["unfinished"] is not None:
        trainer.statistics_before = _with_history(credit.statistics, state["reward_statistics_before"])
        _restore_iteration(trainer, folder, state["unfinished"], scratch)


def _with_history(statistics: RunningStatistics, history: Mapping[str, list[float]]) -> RunningStatistics:
    """Return statistics of the same settings with other rewards."""
    rewards: dict[Hashable, tuple[float, ...]] = {prompt: tuple(values) for prompt, values in history.items()}
    return RunningStatistics(statistics.buffer_size, statistics.min_count, rewards)


def _restore_iteration(trainer: Trainer, folder: Path, unfinished: list[dict[str, Any]], scratch: Path) -> None:
    processes = trainer.runtime.processes
    if len(unfinished) != processes:
        raise CheckpointError(
            f"{folder} was written in the middle of an iteration by {len(unfinished)} processes, not {processes}; "
            f"go on with {len(unfinished)}, or with --checkpoint from one whose name does not end in -unfinished."
        )
    experience = trainer.collector.begin(trainer.finished + 1, scratch)
    record = unfinished[experience.first // max(1, len(experience.prompts))]
    experience.restore(folder / _samples_of(experience.first), record, trainer.policy)
    trainer.experience = experience


def _samples_of(first: int) -> str:
    """Return the folder of the samples of the process whose first one has this index."""
    return f"samples-from-{first:06d}"
