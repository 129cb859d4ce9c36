"""A whole run: from a configuration to a run folder with metrics, pictures, checkpoints and the trained model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from ddpo.config import TrainConfig, changes, check_changes, load_config
from ddpo.evaluation.divergence import BaseParameters
from ddpo.evaluation.fixed_samples import Evaluation, Evaluator
from ddpo.evaluation.sampling import load_policy
from ddpo.prompts import PromptSource, load_prompts
from ddpo.report.progress import Display, QuietDisplay
from ddpo.rewards import RewardSpec, load_reward, repeatable_spec, without_token
from ddpo.runs.checkpoints import Checkpoint, Checkpoints
from ddpo.runs.folder import RUNS, RunFolder
from ddpo.runtime.errors import ConfigError
from ddpo.runtime.processes import Runtime
from ddpo.runtime.signals import StopRequest
from ddpo.training.checkpointing import other_versions
from ddpo.training.run_loop import RunLoop, TrainResult
from ddpo.training.trainer import Trainer


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
                    return RunLoop(self._record, trainer, evaluator, folder, self._display).train(before)
        assert self._config.output is not None
        folder = RunFolder(self._config.output)
        with self._display, self._stop.listening(), folder.locked() if self._runtime.is_main else nullcontext():
            state = checkpoint.state()
            self._check_state(state, allow_config_change)
            trainer, evaluator, before = self._load()
            run = RunLoop(self._record, trainer, evaluator, folder, self._display)
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
