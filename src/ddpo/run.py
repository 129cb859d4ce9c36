"""A whole run: from a configuration to a run folder with metrics, pictures, checkpoints and the trained model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ddpo.checkpointing import Checkpointer, other_versions
from ddpo.checkpoints import Checkpoint, Checkpoints
from ddpo.config import TrainConfig, changes, check_changes, load_config
from ddpo.display import Display, QuietDisplay
from ddpo.distributed import Runtime
from ddpo.errors import CheckpointError, ConfigError, DDPOError, RunFolderError
from ddpo.evaluation import Evaluation, Evaluator
from ddpo.experience import Metrics
from ddpo.interruption import Interrupted, StopRequest
from ddpo.policy import Policy
from ddpo.prompts import PromptSource, load_prompts
from ddpo.reference import BaseParameters
from ddpo.report.curve import draw_curve
from ddpo.report.page import write_page
from ddpo.rewards import RewardSpec, load_reward, repeatable_spec, without_token
from ddpo.run_folder import RUNS, RunFolder
from ddpo.sampling import load_policy
from ddpo.trainer import Trainer


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
    labels: dict[str, str]
    """Words with the unit for each reward measured on the fixed samples."""
    interrupted: Interrupted | None
    """What told the run to stop before its last iteration, if anything did."""
    is_main: bool
    """Whether this is the process that wrote the run folder."""


def train(
    config: TrainConfig,
    *,
    reward: RewardSpec | None = None,
    prompts: PromptSource | None = None,
    display: Display | None = None,
) -> TrainResult:
    """Run the training that `config` describes and return what it left behind.

    `reward` and `prompts` may be Python objects instead of names in the configuration. What a user can get wrong
    is looked at before the model is loaded. Ctrl-C, SIGTERM and SIGUSR1 save and end the run, which `resume` continues;
    a second one ends it at once.

    Raises:
        DDPOError: anything the user can cause; its message says what, where and what to do.
        Interrupted: the run was told to stop before its first iteration.
    """
    RunFolder.check(config.output)
    return _Start(config, reward, prompts, display).run()


def resume(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    config: TrainConfig | None = None,
    checkpoint: str | None = None,
    allow_config_change: bool = False,
    reward: RewardSpec | None = None,
    prompts: PromptSource | None = None,
    display: Display | None = None,
) -> TrainResult:
    """Go on with a run from its latest checkpoint, or `checkpoint`, as if it had never ended.

    On a CPU the weights become those of the run that was not interrupted, bit for bit. `overrides` (`iterations=200`)
    change its configuration; or `config` takes its place. A `reward` or `prompts` that were Python objects are given
    again.

    Raises:
        DDPOError: there is no whole checkpoint, another process is at work on the run, or a setting was changed that
            would make it another run and `allow_config_change` is not given.
        Interrupted: the run was told to stop before it had begun again.
    """
    folder = RunFolder.open(Path(path))
    config = config or load_config(folder.config, overrides)
    checkpoints = Checkpoints(folder.checkpoints)
    checkpoints.put_back()
    found = checkpoints.get(checkpoint)
    return _Start(config.model_copy(update={"output": folder.path}), reward, prompts, display).run(
        found, allow_config_change
    )


def train_or_resume(
    config: TrainConfig, *, allow_config_change: bool = False, display: Display | None = None
) -> TrainResult:
    """Begin the run, or go on with it if `config.output` (default: `runs/NAME`) holds it: the same call every time.

    A run that was ended before its first checkpoint and its first model begins again.

    Raises as `train` and `resume` do.
    """
    folder = RunFolder(config.output or RUNS / (config.name or "run"))
    config = config.model_copy(update={"output": folder.path})
    if not folder.config.is_file():
        return train(config, display=display)
    checkpoints = Checkpoints(folder.checkpoints)
    checkpoints.put_back()
    if not checkpoints.all() and not folder.model.exists():
        folder.check_abandoned(config.name or "run")
        return _Start(config, None, None, display).run(begin_again=True)
    return resume(folder.path, config=config, allow_config_change=allow_config_change, display=display)


class _Start:
    """Checks and loads what a run needs, in the order in which mistakes are cheapest."""

    def __init__(
        self, config: TrainConfig, reward: RewardSpec | None, prompts: PromptSource | None, display: Display | None
    ) -> None:
        self._trained = load_reward(config.reward if reward is None else reward)
        self._measured = [self._trained, *(load_reward(spec) for spec in config.evaluation.rewards)]
        self._source = load_prompts(config.prompts) if prompts is None else prompts
        config.model.resolve()
        self._runtime = Runtime(
            device=config.device, threads=config.threads, precision=config.precision, tracker=config.tracker
        )
        self._config = config.model_copy(
            update={
                "precision": self._runtime.precision,
                "device": self._runtime.device.type,
                "threads": self._runtime.threads,
            }
        )
        self._record = repeatable(self._config, reward, prompts)
        self._runtime.share(config.samples_per_iteration)
        self._runtime.share(config.samples_per_update, "samples in an update")
        self._display = display if display is not None and self._runtime.is_main else QuietDisplay()
        self._stop = StopRequest()

    def run(
        self, checkpoint: Checkpoint | None = None, allow_config_change: bool = False, *, begin_again: bool = False
    ) -> TrainResult:
        """Train from the beginning, or from a checkpoint of the run in `config.output`.

        To `begin_again` is to remove what a run left there that was ended before its first checkpoint.
        """
        if checkpoint is None:
            with self._display, self._stop.listening():
                trainer, evaluator, before = self._load()
                with _made_folder(self._config, self._runtime, begin_again) as folder:
                    return _Run(self._record, trainer, evaluator, folder, self._display).train(before)
        assert self._config.output is not None
        folder = RunFolder(self._config.output)
        with self._display, self._stop.listening(), folder.locked() if self._runtime.is_main else nullcontext():
            state = checkpoint.state()
            self._check_state(state, allow_config_change)
            trainer, evaluator, before = self._load()
            run = _Run(self._record, trainer, evaluator, folder, self._display)
            run.restore(checkpoint, state)
            return run.train(before)

    def _check_state(self, state: dict[str, Any], allow_config_change: bool) -> None:
        """Say what has changed since the state was saved and refuse what does not fit."""
        found = changes(state.get("config", {}), self._record.model_dump(mode="json"))
        check_changes(found, allowed=allow_config_change)
        done, wanted = state.get("iteration", 0), self._config.iterations
        if done > wanted:
            raise ConfigError(f"iterations: the run has made {done} already; give {done} or more, not {wanted}.")
        if done == wanted:
            self._display.message(f"The run has all its {done} iterations; iterations=N with a larger N goes on.")
        for change in found:
            self._display.message(f"Changed: {change}")
        if different := other_versions(state):
            self._display.message(f"Other versions than before, results may differ in the last digits: {different}")

    def _load(self) -> tuple[Trainer, Evaluator, Evaluation]:
        """Load the model and draw the fixed samples from it, before any training."""
        config = self._config
        policy = load_policy(config, self._runtime.device)
        trainer = Trainer(
            config, policy, self._trained, self._source, self._runtime, stop=self._stop, say=self._display.message
        )
        base = BaseParameters(policy.parameters()) if config.evaluation.kl_to_base else None
        evaluator = Evaluator(
            self._source,
            self._measured,
            number=config.evaluation.number,
            seed=config.seed,
            batch_size=config.batch_size,
            base=base,
            meet=trainer.control.meet,
        )
        self._display.start(config.iterations, config.name or "run")
        self._display.phase("fixed samples", 0, 1)
        before = evaluator.evaluate(policy, 0)
        for reason in evaluator.not_measured:
            self._display.message(f"Not measured: {reason}")
        return trainer, evaluator, before


def repeatable(config: TrainConfig, reward: RewardSpec | None, prompts: PromptSource | None) -> TrainConfig:
    """Return the configuration that repeats the run from any folder, with what was given as Python objects.

    Tokens of reward servers stay out of it: run folders are shared.
    """
    measured = {"rewards": [without_token(repeatable_spec(spec)) for spec in config.evaluation.rewards]}
    named: dict[str, object] = {
        "output": None,
        "model": config.model.anchored(),
        "reward": without_token(repeatable_spec(config.reward if reward is None else reward)),
        "evaluation": config.evaluation.model_copy(update=measured),
    }
    if prompts is not None:
        named["prompts"] = [{"prompt": prompt.text, **prompt.metadata} for prompt in prompts.prompts]
    elif isinstance(config.prompts, str) and Path(config.prompts).is_file():
        named["prompts"] = str(Path(config.prompts).resolve())
    return config.model_copy(update=named)


@contextmanager
def _made_folder(config: TrainConfig, runtime: Runtime, begin_again: bool) -> Iterator[RunFolder]:
    """Make the run folder, or clear it, in the main process, lock it, and tell the others where it is."""
    name, made = config.name or "run", None
    with ExitStack() as stack:
        if runtime.is_main and begin_again and config.output is not None:
            made = RunFolder(config.output)
            stack.enter_context(made.locked())
            made.clear(name)
        elif runtime.is_main:
            made = RunFolder.create(config.output, name)
            stack.enter_context(made.locked())
        folder = runtime.gather([made])[0]
        assert folder is not None
        yield folder


class _Run:
    """The loop around the trainer; every process runs it, the main one writes."""

    def __init__(
        self, config: TrainConfig, trainer: Trainer, evaluator: Evaluator, folder: RunFolder, display: Display
    ) -> None:
        self.config, self.trainer, self.evaluator = config, trainer, evaluator
        self.folder, self.display = folder, display
        self.writes = trainer.runtime.is_main
        self.checkpointer = Checkpointer(trainer, Checkpoints(folder.checkpoints), config)
        self.metrics: list[Metrics] = []
        self.unrecorded: Metrics | None = None
        """Metrics of the last iteration until they are written."""
        self.tracker_run: str | None = None

    def restore(self, checkpoint: Checkpoint, state: dict[str, Any]) -> None:
        """Take up the run where a checkpoint left it."""
        self.unrecorded = self.checkpointer.restore(checkpoint, state, self.folder.scratch)
        recorded = self.trainer.finished - (self.unrecorded is not None)
        self.metrics = self.folder.keep_metrics(recorded) if self.writes else self.folder.read_metrics()[:recorded]
        self.tracker_run = state["tracker_run"]
        if self.writes:
            self.folder.remove_leftovers()
        for left in Checkpoints(self.folder.checkpoints).half_written():
            self.display.message(f"Ignored: {left.name[1:]}, a checkpoint that was not written to its end.")
        if self.trainer.finished < self.config.iterations:
            self.display.message(f"Going on from {checkpoint.name}.")

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
                raise RunFolderError(f"{self.folder.path} cannot be written: {error}.") from error
            raise
        finally:
            shutil.rmtree(self.folder.scratch, ignore_errors=True)
            runtime.stop_tracking()
        runtime.wait()
        labels = self.evaluator.labels
        return TrainResult(self.folder, self.metrics, before, after, labels, interrupted, self.writes)

    def _train(self, before: Evaluation) -> Evaluation:
        """Make the iterations that are left and everything that shows them; return the last evaluation."""
        after = before
        if self.unrecorded is not None:
            after = self._record(self.unrecorded, after)
        for metrics in self.trainer.train(self.display.phase, self.folder.scratch):
            self.unrecorded = metrics
            after = self._record(metrics, after)
        if after.iteration != self.trainer.finished:
            after = self._evaluate()
        if self.writes:
            save_whole(self.trainer.policy, self.folder.model)
            self._draw_curve()
            self.evaluator.write_before_after(self.folder, before, after)
            self._write_report()
        return after

    def _record(self, metrics: Metrics, after: Evaluation) -> Evaluation:
        """Write an iteration's metrics, and a checkpoint where one is due; return the newest evaluation."""
        best: float | None = None
        if self._due(self.config.evaluation.every):
            after = self._evaluate()
            metrics = metrics | after.metrics
            reward = next(iter(after.means.values()))
            best = reward if self.checkpointer.best is None or reward > self.checkpointer.best else None
        self.metrics.append(metrics)
        if self.writes:
            self.folder.append_metrics(metrics)
        self.unrecorded = None
        self.trainer.runtime.track(metrics)
        self.display.iteration(metrics)
        best = best if self.config.keep_best else None
        every = self.config.checkpoint_every
        at_end = every is not None and self.trainer.finished == self.config.iterations
        if at_end or self._due(every) or best is not None:
            self.display.phase("checkpoint", 0, 1)
            self.checkpointer.save(best=best)
        return after

    def _due(self, every: int | None) -> bool:
        return every is not None and self.trainer.finished % every == 0

    def _evaluate(self) -> Evaluation:
        """Draw the fixed samples and put them, and the model, into the run folder."""
        self.display.phase("fixed samples", 0, 1)
        known = len(self.evaluator.not_measured)
        evaluation = self.evaluator.evaluate(self.trainer.policy, self.trainer.finished)
        for reason in self.evaluator.not_measured[known:]:
            self.display.message(f"Measured no more: {reason}")
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
        self.display.message(f"{message.format(checkpoint.name)}: ddpo resume {self.folder.path}")
        if not self.writes or not self.trainer.finished:
            return
        try:
            save_whole(self.trainer.policy, self.folder.model)
        except (OSError, SafetensorError) as error:
            raise RunFolderError(f"{self.folder.model} cannot be written: {error}.") from error

    def _rescue(self, error: Exception) -> None:
        """Save what an error leaves. Whatever goes wrong with that must not hide the error."""
        if self.trainer.runtime.processes > 1 and not isinstance(error, DDPOError):
            return  # the other processes have not failed and would not take part
        with suppress(Exception):
            self._save("Saved {}. Once the error is mended, go on with")

    def _draw_curve(self) -> None:
        if self.metrics:
            title = f"{self.config.name or 'run'}: {self.config.algorithm.name}"
            draw_curve(self.metrics, self.folder.curve, title=title, label=self.trainer.reward.label)

    def _write_report(self) -> None:
        """Write the run as one page; whatever goes wrong with it is said and does not take the trained model along."""
        try:
            write_page([self.folder.read()], self.folder.report)
        except Exception as error:
            self.display.message(
                f"The report was not written: {type(error).__name__}: {error}. "
                f"`ddpo report {self.folder.path}` writes it again."
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
