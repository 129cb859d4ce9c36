"""Saving a run so that it goes on as if nothing had happened: all processes write, the main one completes.

Prompts, noise, timesteps and orders come from seeds derived from the run's seed, the iteration and the sample
(`core/randomness.py`), so no generator's state is kept.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError

from ddpo.config import TrainConfig
from ddpo.policies.parameters import load_training, save_parameters
from ddpo.runs.checkpoints import Checkpoint, Checkpoints, checkpoint_name
from ddpo.runtime.errors import CheckpointError, DDPOError
from ddpo.runtime.version import __version__
from ddpo.training.iteration import Metrics
from ddpo.training.trainer import Trainer

T = TypeVar("T")
FORMAT = 2
"""Version of what a checkpoint holds."""
_PACKAGES = ("torch", "diffusers", "transformers", "peft", "numpy")


class Checkpointer:
    """Saves a trainer as checkpoints of its run and puts one back."""

    def __init__(self, trainer: Trainer, checkpoints: Checkpoints, config: TrainConfig) -> None:
        """`config` is recorded, so that going on with another one is noticed."""
        self._trainer, self._checkpoints, self._config = trainer, checkpoints, config
        self.best: float | None = None
        """Highest reward on the fixed samples of a checkpoint that was marked as the best."""

    def save(
        self, *, unrecorded: Metrics | None = None, best: float | None = None, ended_early: str | None = None
    ) -> Checkpoint:
        """Write a checkpoint and return it.

        `unrecorded` are metrics of the last iteration that stand in no file yet; `best` is the reward on the fixed
        samples if it is the highest so far, `ended_early` why the run ends here before its last iteration.

        Raises:
            CheckpointError: it cannot be written, in any process; the checkpoints before it are whole.
        """
        trainer, unfinished = self._trainer, self._trainer.iteration is not None
        name = checkpoint_name(trainer.finished + unfinished, unfinished=unfinished)
        self.best = self.best if best is None else best
        partial = self._together(name, lambda: self._checkpoints.begin(name) if trainer.runtime.is_main else None)[0]
        assert partial is not None
        records = self._together(name, lambda: _save_samples(trainer, partial))
        state = {
            **_state_of(trainer, records),
            "format": FORMAT,
            "config": self._config.model_dump(mode="json"),
            "versions": versions(),
            "unrecorded": unrecorded,
            "best": self.best,
            "ended_early": ended_early,
            "tracker_run": trainer.runtime.tracker_run,
        }
        self._together(
            name, lambda: self._complete(partial, state, best is not None) if trainer.runtime.is_main else None
        )
        return Checkpoint(self._checkpoints.folder / name)

    def _complete(self, partial: Path, state: Mapping[str, Any], is_best: bool) -> None:
        """Write what all processes share and make the checkpoint of it."""
        save_parameters(self._trainer.parameters, self._trainer.optimizer, partial)
        checkpoint = self._checkpoints.finish(partial, state)
        if is_best:
            self._checkpoints.mark_best(checkpoint)
        self._checkpoints.prune(self._config.keep_last, checkpoint)

    def _together(self, name: str, work: Callable[[], T]) -> list[T]:
        """Return what `work` gives in every process. TypeError is an algorithm's state that JSON does not hold.

        Raises:
            CheckpointError: it failed in one of them.
        """
        results: list[T] = []
        problem = ""
        try:
            results.append(work())
        except (
            OSError,
            SafetensorError,
            CheckpointError,
            TypeError,
        ) as error:
            problem = getattr(error, "strerror", None) or str(error)
        outcomes = self._trainer.runtime.gather([(results, problem)])
        for _, message in outcomes:
            if message:
                if self._trainer.runtime.is_main:
                    self._checkpoints.discard(name)
                there = [checkpoint.name for checkpoint in self._checkpoints.all()]
                last = f"the one before it, {there[-1]}, is whole" if there else "there is none before it"
                raise CheckpointError(
                    f"The checkpoint {name} cannot be written into {self._checkpoints.folder} ({message}); {last}. "
                    "Make room or give the right to write, then go on with `ddpo resume`."
                )
        return [result for own, _ in outcomes for result in own]

    def restore(self, checkpoint: Checkpoint, state: Mapping[str, Any]) -> Metrics | None:
        """Put a checkpoint into the fresh trainer; return metrics of its last iteration that stand in no file yet.

        Raises:
            CheckpointError: it is of another model, or of another number of processes.
        """
        try:
            _restore(self._trainer, checkpoint.folder, state)
            self.best = state["best"]
            unrecorded: Metrics | None = state["unrecorded"]
            return unrecorded
        except DDPOError:
            raise
        except (KeyError, ValueError, TypeError, OSError, SafetensorError) as error:
            raise CheckpointError(f"{checkpoint.folder} is not a checkpoint of this run ({error!r}).") from error


def check_format(checkpoint: Checkpoint, state: Mapping[str, Any]) -> None:
    """Raise CheckpointError when what a checkpoint holds is of another version."""
    if state.get("format") != FORMAT:
        wrote = state["versions"].get("ddpo") if isinstance(state.get("versions"), Mapping) else None
        raise CheckpointError(
            f"{checkpoint.folder} has format {state.get('format')}, this ddpo reads {FORMAT}; go on with the ddpo that "
            f"wrote it ({wrote or 'unknown'})."
        )


def versions() -> dict[str, str]:
    """Return the versions of what decides the numbers of a run."""
    packages = {package: version(package) for package in _PACKAGES}
    return {"python": sys.version.split()[0], "ddpo": __version__, **packages}


def other_versions(state: Mapping[str, Any]) -> str:
    """Return which packages are of another version than when the state was saved; empty if none is."""
    now, then = versions(), state.get("versions", {})
    differ = [f"{name} {then[name]} -> {now[name]}" for name in now if name in then and then[name] != now[name]]
    return ", ".join(differ)


def _save_samples(trainer: Trainer, folder: Path) -> dict[str, Any] | None:
    """Write this process's part of the iteration in the making; return the rest of it, None if there is none."""
    if trainer.iteration is None:
        return None
    return trainer.iteration.save(folder / _samples_of(trainer.iteration.first))


def _state_of(trainer: Trainer, unfinished: list[dict[str, Any] | None]) -> dict[str, Any]:
    """Return all else as plain values; `unfinished` is what `_save_samples` returned in each process."""
    return {
        "iteration": trainer.finished,
        "algorithm": trainer.state,
        "algorithm_before": trainer.state_before if trainer.iteration else None,
        "loss_scale": trainer.runtime.loss_scale,
        "batch_size": trainer.coordinator.batch_size,
        "unfinished": None if unfinished[0] is None else unfinished,
    }


def _restore(trainer: Trainer, folder: Path, state: Mapping[str, Any]) -> None:
    """Put a checkpoint's tensors and plain values into a fresh trainer.

    Raises:
        CheckpointError: it was written by another model, or in the middle of an iteration by another number of
            processes.
    """
    load_training(trainer.parameters, trainer.optimizer, folder)
    trainer.state = state["algorithm"]
    trainer.runtime.loss_scale = state["loss_scale"]
    trainer.coordinator.batch_size = min(trainer.coordinator.batch_size, state["batch_size"])
    trainer.finished = state["iteration"]
    if state["unfinished"] is None:
        return
    trainer.state_before = state["algorithm_before"]
    records = state["unfinished"]
    if len(records) != trainer.runtime.processes:
        raise CheckpointError(
            f"{folder} was written in the middle of an iteration by {len(records)} processes, not "
            f"{trainer.runtime.processes}; go on with {len(records)}, or with --checkpoint from one whose name does "
            "not end in -unfinished."
        )
    iteration = trainer.begin(trainer.finished + 1)
    record = records[iteration.first // max(1, len(iteration.prompts))]
    iteration.restore(
        folder / _samples_of(iteration.first), record, trainer.policy, needs_steps=trainer.algorithm.needs_steps
    )
    trainer.iteration = iteration


def _samples_of(first: int) -> str:
    """Return the folder of the samples of the process whose first one has this index."""
    return f"samples-from-{first:06d}"
