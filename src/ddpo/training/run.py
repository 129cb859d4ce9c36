"""A whole run: from a configuration to a run folder with metrics, pictures, checkpoints and the trained model."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from ddpo.algorithms import Algorithm
from ddpo.config import TrainConfig, changes, check_changes, load_config
from ddpo.evaluation.fixed_samples import Evaluation, Evaluator
from ddpo.evaluation.loading import PolicySpec, load_policy
from ddpo.media import Image
from ddpo.prompts import PromptSpec, load_prompts
from ddpo.report.progress import Display, QuietDisplay, make_display
from ddpo.rewards import LoadedReward, RewardSpec, check_media, load_reward
from ddpo.runs.checkpoints import Checkpoint, Checkpoints
from ddpo.runs.folder import RUNS, RunFolder
from ddpo.runtime.errors import ConfigError, ModelError, RewardError
from ddpo.runtime.logs import shown_by
from ddpo.runtime.plugins import importing, load_object
from ddpo.runtime.processes import Runtime
from ddpo.runtime.signals import StopRequest
from ddpo.training.checkpointing import check_format, other_versions
from ddpo.training.given import Callbacks, Given, repeatable, sort_out
from ddpo.training.run_loop import RunLoop, TrainResult
from ddpo.training.threads import choose_threads
from ddpo.training.trainer import Trainer

log = logging.getLogger(__name__)


def train(
    config: TrainConfig | str | Path | None = None,
    *,
    model: Any = None,
    policy: PolicySpec | None = None,
    prompts: PromptSpec | None = None,
    reward: RewardSpec | None = None,
    algorithm: Algorithm | type[Algorithm] | str | Mapping[str, Any] | None = None,
    callbacks: Callbacks = (),
    quiet: bool = False,
    display: Display | None = None,
    **settings: Any,
) -> TrainResult:
    """Run a training and return what it left behind.

        ddpo.train(model=pipeline, prompts=["a cat", "a dog"], reward=redness, iterations=20)

    `config` is a configuration, a recipe's name or a YAML file; without it, the default recipe, or, with a policy or
    pipeline of your own, the built-in defaults. All else may be a name as in a configuration or what you have in your
    hands: `model` a diffusers pipeline, `policy` an object or a class, `prompts` a list or a function, `reward` and
    `callbacks` functions. `settings` are keys of the configuration: `iterations=20, sampler={"steps": 10}`.

    What a user can get wrong is looked at before the model is loaded. Progress is shown unless `quiet`. Ctrl-C, SIGTERM
    and SIGUSR1 save and end the run, which `resume` continues; a second one ends it at once.

    Raises:
        DDPOError: anything the user can cause; its message says what, where and what to do.
        Interrupted: the run was told to stop before its first iteration.
    """
    if importing:
        raise ConfigError(
            f"{importing[-1]} starts a training when it is imported: put ddpo.train(...) under "
            "`if __name__ == '__main__':`."
        )
    given: dict[str, Any] = {"model": model, "policy": policy, "prompts": prompts, "reward": reward}
    whole, objects = sort_out(config, settings, **given, algorithm=algorithm, callbacks=callbacks)
    RunFolder.check(whole.output)
    return _Start(whole, objects, display or make_display(quiet)).run()


def resume(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    config: TrainConfig | None = None,
    checkpoint: str | None = None,
    allow_config_change: bool = False,
    model: Any = None,
    policy: PolicySpec | None = None,
    prompts: PromptSpec | None = None,
    reward: RewardSpec | None = None,
    callbacks: Callbacks = (),
    quiet: bool = False,
    display: Display | None = None,
) -> TrainResult:
    """Go on with a run from its latest checkpoint, or `checkpoint`, as if it had never ended.

    On a CPU the weights become those of the run that was not interrupted, bit for bit. `overrides` (`iterations=200`)
    change its configuration; or `config` takes its place. What was a Python object is given again.

    Raises:
        DDPOError: there is no whole checkpoint, another process is at work on the run, or a setting was changed that
            would make it another run and `allow_config_change` is not given.
        Interrupted: the run was told to stop before it had begun again.
    """
    folder = RunFolder.open(Path(path))
    config = config or load_config(folder.config, overrides)
    given: dict[str, Any] = {"model": model, "policy": policy, "prompts": prompts, "reward": reward}
    config, objects = sort_out(config, {}, **given, callbacks=callbacks)
    checkpoints = Checkpoints(folder.checkpoints)
    checkpoints.put_back()
    found = checkpoints.get(checkpoint)
    start = _Start(config.model_copy(update={"output": folder.path}), objects, display or make_display(quiet))
    return start.run(found, allow_config_change)


def train_or_resume(
    config: TrainConfig, *, allow_config_change: bool = False, quiet: bool = False, display: Display | None = None
) -> TrainResult:
    """Begin the run, or go on with it if `config.output` (default: `runs/NAME`) holds it: the same call every time.

    A run that was ended before its first checkpoint and its first model begins again.

    Raises as `train` and `resume` do.
    """
    display = display or make_display(quiet)
    folder = RunFolder(config.output or RUNS / (config.name or "run"))
    config = config.model_copy(update={"output": folder.path})
    if not folder.config.is_file():
        return train(config, display=display)
    checkpoints = Checkpoints(folder.checkpoints)
    checkpoints.put_back()
    if not checkpoints.all() and not folder.model.exists():
        folder.check_abandoned(config.name or "run")
        return _Start(config, Given(), display).run(begin_again=True)
    found = checkpoints.get()
    return _Start(config, Given(), display).run(found, allow_config_change, go_on=False)


class _Start:
    """Checks and loads what a run needs, in the order in which mistakes are cheapest."""

    def __init__(self, config: TrainConfig, given: Given, display: Display) -> None:
        given.check(config)
        self._given = given
        self._trained = load_reward(config.reward if given.reward is None else given.reward)
        self._measured = [load_reward(spec) for spec in config.evaluation.rewards]
        self._source = load_prompts(config.prompts) if given.prompts is None else given.prompts
        if config.algorithm.uses_advantages:
            config.advantage.check()
        self._callbacks = given.all_callbacks(config)
        self._left_out: list[str] = []
        """Why measured rewards do not fit the medium."""
        self._medium = _medium_of(config, given)
        self._check_media(self._medium)
        if config.policy is None and given.policy is None and given.pipeline is None:
            config.model.resolve()
        self._runtime = Runtime(
            device=config.device, threads=config.threads, precision=config.precision, tracker=config.tracker
        )
        threads = config.threads if self._runtime.device.type == "cpu" else self._runtime.threads
        self._config = config.model_copy(
            update={"precision": self._runtime.precision, "device": self._runtime.device.type, "threads": threads}
        )
        self._record = repeatable(self._config, given)
        self._runtime.shard(config.samples_per_iteration)
        self._runtime.shard(config.samples_per_update, "samples in an update")
        self._display = display if self._runtime.is_main else QuietDisplay()
        self._stop = StopRequest()

    def run(
        self,
        checkpoint: Checkpoint | None = None,
        allow_config_change: bool = False,
        *,
        begin_again: bool = False,
        go_on: bool = True,
    ) -> TrainResult:
        """Train from the beginning, or from a checkpoint of the run in `config.output`.

        To `begin_again` is to remove what a run left there that was ended before its first checkpoint. Without
        `go_on` a run that a callback ended early stays as it is.
        """
        with self._display, shown_by(self._display.message), self._stop.listening():
            if checkpoint is None:
                trainer, evaluator, before = self._load()
                with _made_folder(self._config, self._runtime, begin_again) as folder:
                    return self._loop(trainer, evaluator, folder).train(before)
            assert self._config.output is not None
            folder = RunFolder(self._config.output)
            with folder.locked() if self._runtime.is_main else nullcontext():
                state = checkpoint.state()
                check_format(checkpoint, state)
                if self._config.threads is None:
                    self._take_threads(state["config"]["threads"])
                self._check_state(state, allow_config_change)
                trainer, evaluator, before = self._load()
                run = self._loop(trainer, evaluator, folder)
                run.restore(checkpoint, state, go_on=go_on)
                return run.train(before)

    def _take_threads(self, number: int) -> None:
        """Compute with so many threads, and record it: other numbers round differently."""
        self._runtime.threads = number
        update = {"threads": number}
        self._config, self._record = (each.model_copy(update=update) for each in (self._config, self._record))

    def _loop(self, trainer: Trainer, evaluator: Evaluator, folder: RunFolder) -> RunLoop:
        return RunLoop(self._record, trainer, evaluator, folder, self._display, self._callbacks)

    def _check_state(self, state: dict[str, Any], allow_config_change: bool) -> None:
        """Say what has changed since the state was saved and refuse what does not fit."""
        found = changes(state.get("config", {}), self._record.model_dump(mode="json"))
        check_changes(found, allowed=allow_config_change)
        done, wanted = state.get("iteration", 0), self._config.iterations
        if done > wanted:
            raise ConfigError(f"iterations: the run has made {done} already; give {done} or more, not {wanted}.")
        if done == wanted:
            log.info("The run has all its %d iterations; iterations=N with a larger N goes on.", done)
        for change in found:
            log.info("Changed: %s", change)
        if different := other_versions(state):
            log.info("Other versions than before, results may differ in the last digits: %s", different)

    def _check_media(self, medium: str | None) -> None:
        """Refuse a trained reward of another medium, and leave out the others; nothing while the medium is unknown."""
        if medium is None:
            return
        check_media(self._trained, medium)
        fitting: list[LoadedReward] = []
        for reward in self._measured:
            try:
                check_media(reward, medium)
                fitting.append(reward)
            except RewardError as error:
                self._left_out.append(str(error))
        self._measured = fitting

    def _load(self) -> tuple[Trainer, Evaluator, Evaluation]:
        """Load the model and draw the fixed samples from it, before any training."""
        given = self._given
        policy = load_policy(self._config, self._runtime.device, policy=given.policy, pipeline=given.pipeline)
        if self._config.threads is None:
            prompt, rows = self._source.prompts[0], self._config.batch_size
            self._take_threads(choose_threads(policy, prompt, rows, self._runtime))
        config = self._config
        if self._medium is None:
            self._check_media(policy.medium.name)
        trainer = Trainer(config, policy, self._trained, self._source, self._runtime, stop=self._stop)
        evaluator = Evaluator(
            self._source,
            [self._trained, *self._measured],
            number=config.evaluation.number,
            seed=config.seed,
            batch_size=config.batch_size,
            runtime=self._runtime,
            measure_divergence=config.evaluation.kl_to_base,
            barrier=trainer.coordinator.barrier,
            left_out=self._left_out,
        )
        self._display.start(config.iterations, config.name or "run")
        self._display.phase("fixed samples", 0, 1)
        before = evaluator.evaluate(policy, 0)
        for reason in evaluator.not_measured:
            log.info("Not measured: %s", reason)
        return trainer, evaluator, before


def _medium_of(config: TrainConfig, given: Given) -> str | None:
    """Return the medium that the run's samples will have, as far as that can be told without loading the model."""
    spec = config.policy if given.policy is None else given.policy
    if spec is None:
        return Image.name
    if isinstance(spec, Mapping):
        spec = str(spec.get("name"))
    found = load_object(spec, "policy", ModelError) if isinstance(spec, str) else spec
    return getattr(getattr(found, "medium", None), "name", None)


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
