"""From an experiment to the runs it needs and the commands that make them."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ddpo.config import TrainConfig, load_config
from ddpo.experiments.definition import OF_PICTURES, Experiment, Plan, PromptSet, Scale, plan_of
from ddpo.experiments.runner import Step
from ddpo.experiments.tables import Drawing, FinishedRun
from ddpo.prompts import load_prompts
from ddpo.rewards import load_reward
from ddpo.runtime.errors import ExperimentError, PromptError, RewardError

_OF_THE_MACHINE = {"name", "output", "device", "threads", "precision"}
"""Settings that do not say what a run trains."""


@dataclass(frozen=True)
class Run:
    """One training: a recipe, settings and a seed. Experiments that need the same run share it."""

    recipe: str
    """Name of a recipe, or a file."""
    variant: str
    overrides: tuple[str, ...]
    """All `key=value` settings, the iterations and, last, the seed among them."""
    config: TrainConfig
    """What these give."""
    prompt_sets: tuple[PromptSet, ...] = ()
    """What the trained model is evaluated on."""

    @property
    def name(self) -> str:
        """Name of the run's folder: readable, with a hash of all that recipe and settings give.

        Defaults of the package do not count: a finished run stays one when a version adds a setting.
        """
        given = self.config.model_dump(mode="json", exclude_unset=True, exclude=_OF_THE_MACHINE)
        words = [_slug(setting) for setting in self.overrides if not setting.startswith("evaluation.")]
        return "_".join([Path(self.recipe).stem, *words, _hash(given)])

    def finished(self, work: Path) -> FinishedRun:
        """Return where a work folder has what the tables need of the run."""
        folder = work / self.name
        evaluations, drawings = [], []
        for each in self.prompt_sets:  # names tell all that decides the content
            name = f"{_slug(each.label)}-{_hash(each.model_dump(exclude={'show'}))}.json"
            evaluations.append((each.label, folder / "evaluations" / name))
            if each.show and self.config.seed == 0:
                drawn = folder / "drawings" / f"{_slug(each.label)}-{_hash(each.show)}"
                base, trained = (drawn.with_name(f"{drawn.name}-{model}") for model in ("base", "trained"))
                drawings.append(Drawing(each.label, tuple(each.show), base, trained))
        recipe = Path(self.recipe).stem
        return FinishedRun(folder, recipe, self.variant, self.config.seed, tuple(evaluations), tuple(drawings))


def runs_of(experiment: Experiment, scale: Scale, *, seeds: int | None = None, budget: float = 1.0) -> list[Run]:
    """Return the runs of an experiment: the first seed of every recipe and variant, then the second, ...

    `seeds` is how many are asked for instead of the number of the experiment's file; figures of pictures have one.
    `budget` multiplies the reward queries of every run.
    Raises ExperimentError or ConfigError: no plan for the scale, or a run that cannot be configured.
    """
    plan = plan_of(experiment, scale)
    number = 1 if experiment.figure in OF_PICTURES else seeds or plan.seeds
    return [
        _run(plan, recipe, variant, seed, budget)
        for seed in range(number)
        for recipe in plan.recipes
        for variant in plan.variants
    ]


def _run(plan: Plan, recipe: str, variant: str, seed: int, budget: float) -> Run:
    settings = (*plan.variants[variant], *plan.settings)
    iterations = max(1, round(plan.queries * budget / load_config(recipe, settings).samples_per_iteration))
    every = max(1, round(iterations / plan.evaluations))
    overrides = (*settings, f"iterations={iterations}", f"evaluation.every={every}", f"seed={seed}")
    return Run(recipe, variant, overrides, load_config(recipe, overrides), tuple(plan.evaluate))


def check_rewards_and_prompts(runs: Iterable[Run]) -> None:
    """Load every reward and prompt source that training and evaluating the runs will ask for.

    Raises ExperimentError for one that cannot be loaded; the sentence names the recipe.
    """
    for run in {(run.recipe, run.variant): run for run in runs}.values():
        of_sets = [reward for prompt_set in run.prompt_sets for reward in prompt_set.rewards]
        try:
            for reward in (run.config.reward, *run.config.evaluation.rewards, *of_sets):
                load_reward(reward)
            for prompts in (run.config.prompts, *(prompt_set.prompts for prompt_set in run.prompt_sets)):
                load_prompts(prompts)
        except (RewardError, PromptError) as error:
            raise ExperimentError(f"Recipe '{Path(run.recipe).stem}': {error} Nothing was run.") from None


def steps_of(runs: Iterable[Run], work: Path) -> list[Step]:
    """Return the steps of the runs in `work`, each run once, its evaluations right after it.

    All first seeds come before all second ones: an interrupted command leaves whole seeds.
    """
    steps = (step for run in sorted(runs, key=lambda run: run.config.seed) for step in _steps_of_run(run, work))
    return list({step.name: step for step in steps}.values())


def _steps_of_run(run: Run, work: Path) -> Iterator[Step]:
    made, trained = run.finished(work), run.config.reward
    folder = str(made.folder)
    command = (*_ddpo("train", run.recipe, *run.overrides), "keep_last=1", "--output", folder, "--resume", "--quiet")
    yield Step(run.name, command, made.folder, resumes=True)
    for prompt_set, (_, file) in zip(run.prompt_sets, made.evaluations, strict=True):
        rewards = [word for reward in (trained, *prompt_set.rewards) for word in ("--reward", _as_text(reward))]
        options = ("--seeds", str(prompt_set.seeds), "--output", str(file))
        command = (*_ddpo("evaluate", folder, "--prompts", _as_text(prompt_set.prompts)), *rewards, *options)
        yield Step(f"{run.name}_{file.stem}", command, file, after=run.name)
    config = run.config
    base = (config.model.name, "--steps", str(config.sampler.steps), "--guidance-scale", str(config.guidance_scale))
    for drawing in made.drawings:
        prompts = [word for prompt in drawing.prompts for word in ("--prompt", prompt)]
        for source, output in ((base, drawing.base), ((folder,), drawing.trained)):
            command = (*_ddpo("sample", *source), *prompts, "--seed", "0", "--output", str(output))
            yield Step(f"{run.name}_{output.name}", command, output, after=run.name)


def _as_text(value: object) -> str:
    """Return a reward or prompts as the command line takes them."""
    return value if isinstance(value, str) else json.dumps(value)


def _slug(text: str) -> str:
    """Return the words of `text` in a form fit for file names."""
    return re.sub(r"[^\w.]+", "-", text).strip("-")


def _hash(identity: object) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]


def _ddpo(command: str, *words: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "ddpo", command, *words)
