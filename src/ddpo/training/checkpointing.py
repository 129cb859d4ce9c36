"""Saving a run so that it goes on as if nothing had happened: all processes write, the main one completes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError

from ddpo.config import TrainConfig
from ddpo.policies.parameters import save_parameters
from ddpo.runs.checkpoints import Checkpoint, Checkpoints, checkpoint_name
from ddpo.runtime.errors import CheckpointError, DDPOError
from ddpo.training.experience import Metrics
from ddpo.training.trainer import Trainer
from ddpo.training.training_state import restore, save_samples, state_of

T = TypeVar("T")
FORMAT = 1
"""Version of what a checkpoint holds."""
_PACKAGES = ("ddpo", "torch", "diffusers", "transformers", "peft", "numpy")


class Checkpointer:
    """Saves a trainer as checkpoints of its run and puts one back."""

    def __init__(self, trainer: Trainer, checkpoints: Checkpoints, config: TrainConfig) -> None:
        """`config` is recorded, so that going on with another one is noticed."""
        self._trainer, self._checkpoints, self._config = trainer, checkpoints, config
        self.best: float | None = None
        """Highest reward on the fixed samples of a checkpoint that was marked as the best."""

    def save(self, *, unrecorded: Metrics | None = None, best: float | None = None) -> Checkpoint:
        """Write a checkpoint and return it.

        `unrecorded` are metrics of the last iteration that stand in no file yet; `best` is the reward on the fixed
        samples if it is the highest so far.

        Raises:
            CheckpointError: it cannot be written, in any process; the checkpoints before it are whole.
        """
        trainer, unfinished = self._trainer, self._trainer.experience is not None
        name = checkpoint_name(trainer.finished + unfinished, unfinished=unfinished)
        self.best = self.best if best is None else best
        partial = self._together(name, lambda: self._checkpoints.begin(name) if trainer.runtime.is_main else None)[0]
        assert partial is not None
        records = self._together(name, lambda: save_samples(trainer, partial))
        state = {
            **state_of(trainer, records),
            "format": FORMAT,
            "config": self._config.model_dump(mode="json"),
            "versions": versions(),
            "unrecorded": unrecorded,
            "best": self.best,
            "tracker_run": trainer.runtime.tracker_run,
        }
        self._together(
            name, lambda: self._complete(partial, state, best is not None) if trainer.runtime.is_main else None
        )
        return Checkpoint(self._checkpoints.folder / name)

    def _complete(self, partial: Path, state: Mapping[str, Any], is_best: bool) -> None:
        """Write what all processes share and make the checkpoint of it."""
        save_parameters(self._trainer.updater.parameters, self._trainer.updater.optimizer, partial)
        checkpoint = self._checkpoints.finish(partial, state)
        if is_best:
            self._checkpoints.mark_best(checkpoint)
        self._checkpoints.prune(self._config.keep_last, checkpoint)

    def _together(self, name: str, work: Callable[[], T]) -> list[T]:
        """Return what `work` gives in every process.

        Raises:
            CheckpointError: it failed in one of them.
        """
        results: list[T] = []
        problem = ""
        try:
            results.append(work())
        except (OSError, SafetensorError, CheckpointError) as error:
            problem = getattr(error, "strerror", None) or str(error)
        said = self._trainer.runtime.gather([(results, problem)])
        for _, message in said:
            if message:
                if self._trainer.runtime.is_main:
                    self._checkpoints.discard(name)
                there = [checkpoint.name for checkpoint in self._checkpoints.all()]
                last = f"the one before it, {there[-1]}, is whole" if there else "there is none before it"
                raise CheckpointError(
                    f"The checkpoint {name} cannot be written into {self._checkpoints.folder} ({message}); {last}. "
                    "Make room or give the right to write, then go on with `ddpo resume`."
                )
        return [result for own, _ in said for result in own]

    def restore(self, checkpoint: Checkpoint, state: Mapping[str, Any], scratch: Path) -> Metrics | None:
        """Put a checkpoint into the fresh trainer; return metrics of its last iteration that stand in no file yet.

        Raises:
            CheckpointError: it is of another version, or of another model.
        """
        try:
            if state["format"] != FORMAT:
                raise CheckpointError(
                    f"{checkpoint.folder} has format {state['format']}, this ddpo reads {FORMAT}; go on with the ddpo "
                    f"that wrote it ({state['versions']['ddpo']})."
                )
            restore(self._trainer, checkpoint.folder, state, scratch)
            self.best = state["best"]
            unrecorded: Metrics | None = state["unrecorded"]
            return unrecorded
        except DDPOError:
            raise
        except (KeyError, ValueError, TypeError, OSError, SafetensorError) as error:
            raise CheckpointError(f"{checkpoint.folder} is not a checkpoint of this run ({error!r}).") from error


def versions() -> dict[str, str]:
    """Return the versions of what decides the numbers of a run."""
    return {"python": sys.version.split()[0], **{package: version(package) for package in _PACKAGES}}


def other_versions(state: Mapping[str, Any]) -> str:
    """Return which packages are of another version than when the state was saved; empty if none is."""
    now, then = versions(), state.get("versions", {})
    differ = [f"{name} {then[name]} -> {now[name]}" for name in now if name in then and then[name] != now[name]]
    return ", ".join(differ)
