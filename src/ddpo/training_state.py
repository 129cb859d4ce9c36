"""What a checkpoint keeps of a trainer, and putting it back: nothing else decides how a run goes on.

Prompts, noise, timesteps and orders come from seeds derived from the run's seed, the iteration and the sample
(`randomness.py`), so no generator's state is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddpo.advantages import RunningStatistics
from ddpo.errors import CheckpointError
from ddpo.trainer import Trainer

TENSORS = "training.safetensors"
"""Trainable parameters and the optimizer's moments."""
_PARAMETER = "parameter"


def save_tensors(trainer: Trainer, folder: Path) -> None:
    """Write the parameters and moments, the same in all processes, into `folder`."""
    tensors: dict[str, Tensor] = {}
    for index, parameter in enumerate(trainer.updater.parameters):
        moments = trainer.updater.optimizer.state.get(parameter, {})
        for name, value in {_PARAMETER: parameter, **moments}.items():
            tensors[f"{index:05d}.{name}"] = value.detach().cpu().contiguous()
    save_file(tensors, folder / TENSORS)


def load_parameters(parameters: list[torch.nn.Parameter], folder: Path) -> dict[str, Tensor]:
    """Give `parameters` the values of a checkpoint and return all its tensors.

    Raises:
        CheckpointError: it holds other parameters than these.
    """
    tensors: dict[str, Tensor] = load_file(folder / TENSORS)
    stored = [value for name, value in sorted(tensors.items()) if name.endswith(f".{_PARAMETER}")]
    if [value.shape for value in stored] != [parameter.shape for parameter in parameters]:
        raise CheckpointError(
            f"{folder} holds {len(stored)} parameters that are not the {len(parameters)} of this model and its "
            "adapters; go on with the model and lora settings it was written with."
        )
    with torch.no_grad():
        for parameter, value in zip(parameters, stored, strict=True):
            parameter.copy_(value)
    return tensors


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
    tensors = load_parameters(updater.parameters, folder)
    for index, parameter in enumerate(updater.parameters):
        prefix = f"{index:05d}."
        moments = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        del moments[_PARAMETER]
        for name, value in moments.items():
            like = torch.empty_like(parameter) if value.shape == parameter.shape and name != "step" else value
            updater.optimizer.state[parameter][name] = like.copy_(value)
    history = {prompt: tuple(rewards) for prompt, rewards in state["reward_statistics"].items()}
    settings = credit.statistics
    credit.statistics = RunningStatistics(settings.buffer_size, settings.min_count, history)
    runtime.loss_scale = state["loss_scale"]
    trainer.control.batch_size = min(trainer.control.batch_size, state["batch_size"])
    trainer.finished = state["iteration"]
    if state["unfinished"] is not None:
        _restore_iteration(trainer, folder, state["unfinished"], scratch)


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
