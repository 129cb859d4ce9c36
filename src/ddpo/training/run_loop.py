"""The loop around the trainer: metrics, fixed samples, checkpoints and the trained model go into the run folder."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ddpo.config import TrainConfig
from ddpo.core.policy import Policy
from ddpo.evaluation.fixed_samples import Evaluation, Evaluator
from ddpo.report.card import write_card
from ddpo.report.curve import draw_curve
from ddpo.report.page import write_page
from ddpo.report.progress import Display
from ddpo.runs.checkpoints import Checkpoint, Checkpoints
from ddpo.runs.folder import RunFolder, unwritable
from ddpo.runtime.errors import CheckpointError, DDPOError, DeviceMemoryError, ReplayError, RunFolderError
from ddpo.runtime.signals import Interrupted
from ddpo.training.callbacks import Callback, Moment, OnMain, SaveCheckpoints, StopWhen
from ddpo.training.checkpointing import Checkpointer
from ddpo.training.iteration import Metrics
from ddpo.training.trainer import Trainer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves behind."""

    folder: RunFolder
    """The run folder."""
    metrics: list[Metrics]
    """One entry an iteration, as in metrics.jsonl."""
    before: Evaluation
    """The fixed samples before training."""
    after: Evaluation
    """The same prompts and seeds the last time they were drawn: after training, unless it was interrupted."""
    prompts: list[str]
    """Texts of the fixed samples' prompts."""
    labels: dict[str, str]
    """Words with the unit for each reward measured on the fixed samples."""
    interrupted: Interrupted | None
    """What told the run to stop before its last iteration, if anything did."""
    ended_early: str | None
    """Why a callback or `stop_when` ended the run, if one did."""
    is_main: bool
    """Whether this is the process that wrote the run folder."""


class RunLoop:
    """The loop around the trainer; every process runs it, the main one writes."""

    def __init__(
        self,
        config: TrainConfig,
        trainer: Trainer,
        evaluator: Evaluator,
        folder: RunFolder,
        display: Display,
        callbacks: Sequence[tuple[str, Callback]] = (),
    ) -> None:
        """`callbacks` are the user's, with the names that messages give them."""
        self.config, self.trainer, self.evaluator = config, trainer, evaluator
        self.folder, self.display = folder, display
        self.writes = trainer.runtime.is_main
        self.checkpointer = Checkpointer(trainer, Checkpoints(folder.checkpoints), config)
        stopping = [("stop_when", StopWhen(config.stop_when))] if config.stop_when else []
        self.callbacks: list[Callback] = [
            lambda moment: trainer.runtime.track(moment.metrics),
            OnMain([*stopping, *callbacks], trainer.coordinator),
            SaveCheckpoints(
                self.checkpointer, config.checkpoint_every, config.keep_best, display.phase, trainer.runtime
            ),
        ]
        self.metrics: list[Metrics] = []
        self.unrecorded: Metrics | None = None
        """Metrics of the last iteration until they are written."""
        self.tracker_run: str | None = None
        self.ended_early: str | None = None

    def restore(self, checkpoint: Checkpoint, state: dict[str, Any], *, go_on: bool = True) -> None:
        """Take up the run where a checkpoint left it; `go_on` also where it had ended early."""
        self.ended_early = None if go_on else state.get("ended_early")
        self.unrecorded = self.checkpointer.restore(checkpoint, state)
        recorded = self.trainer.finished - (self.unrecorded is not None)
        self.metrics = self.folder.keep_metrics(recorded) if self.writes else self.folder.read_metrics()[:recorded]
        self.display.past(self.metrics)
        self.tracker_run = state["tracker_run"]
        if self.writes:
            self.folder.remove_leftovers()
        for left in Checkpoints(self.folder.checkpoints).half_written():
            log.info("Ignored: %s, a checkpoint that was not written to its end.", left.name[1:])
        if self.ended_early is not None:
            log.info("The run had ended early: %s; `ddpo resume` goes on.", self.ended_early)
        elif self.trainer.finished < self.config.iterations:
            log.info("Going on from %s.", checkpoint.name)

    def train(self, before: Evaluation) -> TrainResult:
        """Train with evaluations and checkpoints in between, save, evaluate; an error saves what was done so far."""
        runtime, title = self.trainer.runtime, self.config.name or "run"
        interrupted: Interrupted | None = None
        after = before
        try:
            if self.writes:
                self.folder.write_config(self.config.to_yaml())
            if self.writes and not self.trainer.finished:
                self.evaluator.write(self.folder, before)
            runtime.start_tracking(
                title, self.config.model_dump(mode="json"), self.folder.path, run_id=self.tracker_run
            )
            after = self._train(before)
        except Interrupted as stopped:
            interrupted = stopped
            self._save("Interrupted; saved {}. Go on with")
        except (CheckpointError, RunFolderError):
            raise
        except Exception as error:
            self._rescue(error)
            if _of_the_disk(error):
                raise unwritable(self.folder.path, error) from error
            raise
        finally:
            runtime.stop_tracking()
        runtime.wait()
        measured = self.evaluator.texts, self.evaluator.labels
        return TrainResult(
            self.folder, self.metrics, before, after, *measured, interrupted, self.ended_early, self.writes
        )

    def _train(self, before: Evaluation) -> Evaluation:
        """Make the iterations that are left and everything that shows them; return the last evaluation."""
        after = before
        if self.unrecorded is not None:
            after = self._record(self.unrecorded, after)
        if self.ended_early is None:
            for metrics in self.trainer.train(self.display.phase):
                self.unrecorded = metrics
                after = self._record(metrics, after)
                if self.ended_early is not None:
                    break
        if after.iteration != self.trainer.finished:
            after = self._evaluate()
        if self.writes:
            save_whole(self.trainer.policy, self.folder.model)
            self._draw_curve()
            self.evaluator.write_before_after(self.folder, before, after)
            self._write_report()
        return after

    def _record(self, metrics: Metrics, after: Evaluation) -> Evaluation:
        """Write an iteration's metrics and call what wants to know of them; return the newest evaluation."""
        number, every = self.trainer.finished, self.config.evaluation.every
        evaluation = self._evaluate() if every is not None and number % every == 0 else None
        if evaluation is not None:
            metrics = metrics | evaluation.metrics
        self.metrics.append(metrics)
        if self.writes:
            self.folder.append_metrics(metrics)
        self.unrecorded = None
        self.display.iteration(metrics)
        is_last = number == self.config.iterations
        moment = Moment(number, metrics, evaluation, self.trainer.policy, self.folder, is_last)
        for callback in self.callbacks:
            callback(moment)
        if moment.reason is not None:
            self.ended_early = moment.reason
            log.info("The run ends after iteration %d: %s.", number, moment.reason)
        return evaluation or after

    def _evaluate(self) -> Evaluation:
        """Draw the fixed samples and put them, and the model, into the run folder."""
        self.display.phase("fixed samples", 0, 1)
        known = len(self.evaluator.not_measured)
        evaluation = self.evaluator.evaluate(self.trainer.policy, self.trainer.finished)
        for reason in self.evaluator.not_measured[known:]:
            log.info("Measured no more: %s", reason)
        if self.writes:
            self._draw_curve()
            self.evaluator.write(self.folder, evaluation)
            save_whole(self.trainer.policy, self.folder.model)
        return evaluation

    def _save(self, message: str) -> None:
        """Write a checkpoint of the run as it is, say `message` with its name in place of `{}`, then write the model.

        Raises:
            CheckpointError, RunFolderError: the one or the other cannot be written.
        """
        self.display.phase("checkpoint", 0, 1)
        checkpoint = self.checkpointer.save(unrecorded=self.unrecorded)
        log.info("%s: ddpo resume %s", message.format(checkpoint.name), self.folder.path)
        if not self.writes or not self.trainer.finished:
            return
        try:
            save_whole(self.trainer.policy, self.folder.model)
        except (OSError, SafetensorError) as error:
            raise unwritable(self.folder.model, error) from error

    def _rescue(self, error: Exception) -> None:
        """Save what an error leaves. Whatever goes wrong with that must not hide the error."""
        told_to_all = isinstance(error, DDPOError) and not isinstance(error, DeviceMemoryError)
        if self.trainer.runtime.processes > 1 and not told_to_all:
            return  # the other processes have not failed and would not take part
        if isinstance(error, ReplayError):
            self.trainer.forget_iteration()  # these samples would be refused again, whatever is changed
        with suppress(Exception):
            self._save("Saved {}. Once the error is mended, go on with")

    def _draw_curve(self) -> None:
        if self.metrics:
            title = f"{self.config.name or 'run'}: {self.config.algorithm.name}"
            draw_curve(self.metrics, self.folder.curve, title=title, label=self.trainer.reward.label)

    def _write_report(self) -> None:
        """Write the run as one page, and the model's card; what goes wrong does not take the trained model along."""
        try:
            write_page([self.folder.read()], self.folder.report)
            write_card(self.folder)
        except Exception as error:
            log.warning(
                "The report, or the model's card, was not written: %s: %s. `ddpo report %s` writes the report again.",
                type(error).__name__,
                error,
                self.folder.path,
            )


def _of_the_disk(error: Exception) -> bool:
    """Return whether a file could not be written or read; a connection that failed is an OSError too."""
    connection = isinstance(error, ConnectionError | TimeoutError)
    return isinstance(error, SafetensorError) or (isinstance(error, OSError) and not connection and bool(error.errno))


def save_whole(policy: Policy, folder: Path) -> None:
    """Save the trained weights so that `folder` is there whole or not at all."""
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        policy.save(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
