"""A whole run: from a configuration to a run folder with metrics, pictures and the trained model."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from ddpo.config import TrainConfig
from ddpo.display import Display, QuietDisplay
from ddpo.distributed import Runtime
from ddpo.evaluation import Evaluation, Evaluator
from ddpo.policy import Policy
from ddpo.prompts import PromptSource, load_prompts
from ddpo.reference import BaseParameters
from ddpo.report.curve import draw_curve
from ddpo.report.page import write_page
from ddpo.rewards import RewardSpec, load_reward, repeatable_spec, without_token
from ddpo.run_folder import RunFolder
from ddpo.sampling import load_policy
from ddpo.trainer import Metrics, Trainer


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
    """The same prompts and seeds after training."""
    labels: dict[str, str]
    """Words with the unit for each reward measured on the fixed samples."""
    interrupted: bool
    """Whether the user stopped the run before its last iteration."""
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
    is looked at before the model is loaded. Ctrl-C ends the run early with the model as it is.

    Raises:
        DDPOError: anything the user can cause; its message says what, where and what to do.
    """
    trained = load_reward(config.reward if reward is None else reward)
    measured = [trained, *(load_reward(spec) for spec in config.evaluation.rewards)]
    source = load_prompts(config.prompts) if prompts is None else prompts
    config.model.resolve()
    RunFolder.check(config.output)
    runtime = Runtime(device=config.device, threads=config.threads, precision=config.precision, tracker=config.tracker)
    config = config.model_copy(
        update={"precision": runtime.precision, "device": runtime.device.type, "threads": runtime.threads}
    )
    runtime.share(config.samples_per_iteration)
    runtime.share(config.samples_per_update, "samples in an update")
    trainer = Trainer(config, load_policy(config, runtime.device), trained, source, runtime)
    base = BaseParameters(trainer.policy.parameters()) if config.evaluation.kl_to_base else None
    evaluator = Evaluator(
        source, measured, number=config.evaluation.number, seed=config.seed, batch_size=config.batch_size, base=base
    )
    shown = display if display is not None and runtime.is_main else QuietDisplay()
    with shown:
        shown.start(config.iterations, config.name or "run")
        shown.phase("fixed samples", 0, 1)
        before = evaluator.evaluate(trainer.policy, 0)
        for reason in evaluator.not_measured:
            shown.message(f"Not measured: {reason}")
        record = repeatable(config, reward, prompts)
        return _Run(record, trainer, evaluator, _shared_folder(config, runtime), shown).train(before)


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


def _shared_folder(config: TrainConfig, runtime: Runtime) -> RunFolder:
    """Make the run folder in the main process and tell the others where it is."""
    made = RunFolder.create(config.output, config.name or "run") if runtime.is_main else None
    folder = runtime.gather([made])[0]
    assert folder is not None
    return folder


class _Run:
    """The loop around the trainer; every process runs it, the main one writes."""

    def __init__(
        self, config: TrainConfig, trainer: Trainer, evaluator: Evaluator, folder: RunFolder, display: Display
    ) -> None:
        self.config, self.trainer, self.evaluator = config, trainer, evaluator
        self.folder, self.display = folder, display
        self.writes = trainer.runtime.is_main
        self.metrics: list[Metrics] = []
        self.done = 0

    def train(self, before: Evaluation) -> TrainResult:
        """Train with evaluations in between, save, evaluate; an error saves the model trained so far."""
        if self.writes:
            self.folder.write_config(self.config.to_yaml())
            self.evaluator.write(self.folder, before)
        name, runtime = self.config.name or "run", self.trainer.runtime
        runtime.start_tracking(name, self.config.model_dump(mode="json"), self.folder.path)
        after, interrupted = before, False
        try:
            for metrics in self.trainer.train(self.display.phase, self.folder.scratch):
                after = self._record(metrics, after)
        except KeyboardInterrupt:
            interrupted = True
            self.display.message("Interrupted: saving the model as it is.")
        finally:
            shutil.rmtree(self.folder.scratch, ignore_errors=True)
            self._save()
            runtime.stop_tracking()
        if interrupted or after.iteration != self.done:
            after = self._evaluate(self.done)
        if self.writes:
            self._draw_curve()
            self.evaluator.write_before_after(self.folder, before, after)
            self._write_report()
        runtime.wait()
        labels = self.evaluator.labels
        return TrainResult(self.folder, self.metrics, before, after, labels, interrupted, self.writes)

    def _record(self, metrics: Metrics, after: Evaluation) -> Evaluation:
        """Write an iteration's metrics; return the newest evaluation."""
        self.done, every = int(metrics["iteration"]), self.config.evaluation.every
        if every is not None and self.done % every == 0:
            after = self._evaluate(self.done)
            self._save()
            metrics = metrics | after.metrics
        self.metrics.append(metrics)
        if self.writes:
            self.folder.append_metrics(metrics)
        self.trainer.runtime.track(metrics)
        self.display.iteration(metrics)
        return after

    def _evaluate(self, iteration: int) -> Evaluation:
        """Draw the fixed samples and put them into the run folder."""
        self.display.phase("fixed samples", 0, 1)
        known = len(self.evaluator.not_measured)
        evaluation = self.evaluator.evaluate(self.trainer.policy, iteration)
        for reason in self.evaluator.not_measured[known:]:
            self.display.message(f"Measured no more: {reason}")
        if self.writes:
            self._draw_curve()
            self.evaluator.write(self.folder, evaluation)
        return evaluation

    def _save(self) -> None:
        """Save the weights as they are, whatever ended the training, if any iteration was finished."""
        if self.writes and self.done:
            save_whole(self.trainer.policy, self.folder.model)

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


def save_whole(policy: Policy, folder: Path) -> None:
    """Save the trained weights so that `folder` is there whole or not at all."""
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    policy.save(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)
