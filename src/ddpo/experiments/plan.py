"""From an experiment to the runs it needs and the steps that make them."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddpo.config import TrainConfig, load_config
from ddpo.experiments.definition import Experiment, Plan, PromptSet, Scale, plan_of, seeds_of
from ddpo.experiments.steps import Step

_OF_THE_MACHINE = ("name", "output", "device", "threads", "precision")
"""Settings that do not say what a run trains."""
_WHOLE = ("prompts", "reward")
"""Settings whose keys are options: one that only one of two has makes them differ."""


@dataclass(frozen=True)
class Run:
    """One training: a recipe, settings and a seed. Experiments that need the same run share it."""

    recipe: str
    """Name of a recipe, or a file."""
    variant: str
    """The label that the experiment gives it."""
    seed: int
    overrides: tuple[str, ...]
    """All `key=value` settings, the seed and the iterations among them."""
    queries: int
    """Reward queries: iterations x samples per iteration."""
    config: TrainConfig
    """The resolved configuration."""
    prompt_sets: tuple[PromptSet, ...] = ()
    """What the trained model is evaluated on."""

    @property
    def recipe_name(self) -> str:
        """The recipe without its folder."""
        return Path(self.recipe).stem

    @property
    def name(self) -> str:
        """Name of the run's folder: readable, with a hash of recipe, settings and seed."""
        words = [self.recipe_name, *(_word(override) for override in self.overrides if _is_readable(override))]
        return f"{'_'.join(words)}_seed-{self.seed}_{self._identity()}"

    def _identity(self) -> str:
        file = Path(self.recipe)
        recipe = file.read_text(encoding="utf-8") if file.suffix and file.is_file() else self.recipe
        return _hash([recipe, *self.overrides])


def runs_of(experiment: Experiment, scale: Scale, *, seeds: int | None = None, budget: float = 1.0) -> list[Run]:
    """Return the runs of an experiment: the first seed of every recipe and variant, then the second, ...

    `seeds` is how many are asked for instead of the number of the experiment's file; one that shares only the first
    seeds of another experiment has no more. `budget` multiplies the reward queries of every run.

    Raises:
        ExperimentError, ConfigError: no plan for the scale, or a run that cannot be configured.
    """
    plan = plan_of(experiment, scale)
    return [
        _run(plan, recipe, variant, seed, budget)
        for seed in range(seeds_of(experiment, scale, seeds))
        for recipe in plan.recipes
        for variant in plan.variants
    ]


def _run(plan: Plan, recipe: str, variant: str, seed: int, budget: float) -> Run:
    settings = (*plan.variants[variant], *plan.settings)
    samples = load_config(recipe, settings).samples_per_iteration
    iterations = max(1, round(plan.queries * budget / samples))
    overrides = (
        *settings,
        f"iterations={iterations}",
        f"evaluation.every={max(1, round(iterations / plan.evaluations))}",
        f"seed={seed}",
    )
    config = load_config(recipe, overrides)
    return Run(recipe, variant, seed, overrides, iterations * samples, config, tuple(plan.evaluate))


def steps_of(runs: Iterable[Run], work: Path, environment: Mapping[str, str], origin: Mapping[str, Any]) -> list[Step]:
    """Return the steps of the runs in `work`, each run once, its evaluations right after it.

    All first seeds come before all second ones: an interrupted command leaves whole seeds. `origin` goes into the
    markers: versions and machine.
    """
    steps: dict[str, Step] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        training = _training(run, work, environment, origin)
        evaluations = [_evaluation(run, prompt_set, training) for prompt_set in run.prompt_sets]
        drawings = [step for prompt_set in run.prompt_sets for step in _drawings(run, prompt_set, training)]
        for step in (training, *evaluations, *drawings):
            steps.setdefault(step.name, step)
    return list(steps.values())


def _training(run: Run, work: Path, environment: Mapping[str, str], origin: Mapping[str, Any]) -> Step:
    folder = work / run.name
    return Step(
        name=run.name,
        command=(
            *_ddpo("train"),
            run.recipe,
            *run.overrides,
            "keep_last=1",
            "--output",
            str(folder),
            "--resume",
            "--quiet",
        ),
        product=folder,
        resumes=True,
        work=work,
        cost=float(run.queries),
        environment=environment,
        record={"origin": origin, "settings": run.config.model_dump(mode="json")},
    )


def evaluation_file(run: Run, prompt_set: PromptSet, work: Path) -> Path:
    """Return the file of a run's evaluation on a prompt set; its name tells all that decides the content."""
    identity = _hash(prompt_set.model_dump(exclude={"show"}))
    return work / run.name / "evaluations" / f"{slug(prompt_set.label)}-{identity}.json"


def drawing_folders(run: Run, prompt_set: PromptSet, work: Path) -> tuple[Path, Path] | None:
    """Return the folders of the base model's and the trained model's pictures; None when a prompt set shows none."""
    if not prompt_set.show or run.seed != 0:
        return None
    base = [run.config.model.name, run.config.sampler.steps, run.config.guidance_scale, prompt_set.show]
    name = slug(prompt_set.label)
    return (
        work / f"base_{name}_{_hash(base)}",
        work / run.name / "drawings" / f"{name}-{_hash(prompt_set.show)}",
    )


def _evaluation(run: Run, prompt_set: PromptSet, training: Step) -> Step:
    file = evaluation_file(run, prompt_set, training.work)
    trained = run.config.reward
    rewards = [trained if isinstance(trained, str) else json.dumps(trained), *prompt_set.rewards]
    command = (
        *(*_ddpo("evaluate"), str(training.product), "--prompts", prompt_set.prompts),
        *(word for reward in rewards for word in ("--reward", reward)),
        *("--seeds", str(prompt_set.seeds), "--output", str(file)),
    )
    return Step(
        name=f"{run.name}_{file.stem}",
        command=command,
        product=file,
        work=training.work,
        cost=200.0 * prompt_set.seeds / 4,
        after=training.name,
        environment=training.environment,
        record={"origin": training.record["origin"]},
    )


def _drawings(run: Run, prompt_set: PromptSet, training: Step) -> list[Step]:
    """Return the steps that draw a prompt set's pictures with the base model and the trained one, all of seed 0."""
    folders = drawing_folders(run, prompt_set, training.work)
    if folders is None:
        return []
    prompts = [word for prompt in prompt_set.show for word in ("--prompt", prompt)]
    settings = ["--steps", str(run.config.sampler.steps), "--guidance-scale", str(run.config.guidance_scale)]
    sources = ([run.config.model.name, *settings], [str(training.product)])
    return [
        Step(
            name="_".join(folder.relative_to(training.work).parts),
            command=(*_ddpo("sample"), *source, *prompts, "--seed", "0", "--output", str(folder)),
            product=folder,
            work=training.work,
            cost=50.0,
            after=training.name,
            environment=training.environment,
            record={"origin": training.record["origin"]},
        )
        for folder, source in zip(folders, sources, strict=True)
    ]


def changed_settings(step: Step, run: Run) -> list[str]:
    """Return what a finished run was trained with and the recipe would set otherwise now: `learning_rate 0.1 -> 1`.

    Settings that only one of the two knows do not count: they came or went with a version.
    """
    return list(_changed(step.finished().get("settings", {}), run.config.model_dump(mode="json"), ""))


def _changed(then: Mapping[str, Any], now: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """Yield the settings that differ; sections are gone through key by key, what is given whole is compared whole."""
    for name in (name for name in then if name in now):
        key = f"{prefix}{name}"
        if key in _OF_THE_MACHINE or then[name] == now[name]:
            continue
        if key not in _WHOLE and isinstance(then[name], dict) and isinstance(now[name], dict):
            yield from _changed(then[name], now[name], f"{key}.")
        else:
            yield f"{key} {then[name]} -> {now[name]}"


def slug(text: str) -> str:
    """Return the words of `text` in a form fit for file names."""
    return re.sub(r"[^\w.]+", "-", text).strip("-")


def _hash(identity: object) -> str:
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:8]


def _ddpo(command: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "ddpo", command)


def _is_readable(override: str) -> bool:
    return not override.startswith(("seed=", "evaluation."))


def _word(override: str) -> str:
    key, _, value = override.partition("=")
    return slug(value if key in ("algorithm", "prompts", "reward") else f"{key}-{value}")
