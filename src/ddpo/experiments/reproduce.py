"""Runs experiments and writes their results: tables, figure and page."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ddpo import __version__
from ddpo.experiments import machine
from ddpo.experiments.definition import Experiment, Scale, experiment_names, load_experiment
from ddpo.experiments.plan import Run, changed_settings, drawing_folders, evaluation_file, runs_of, steps_of
from ddpo.experiments.publishing import check_output, publish
from ddpo.experiments.requirements import check_rewards_and_prompts
from ddpo.experiments.runner import Outcome, Runner
from ddpo.experiments.steps import Step
from ddpo.experiments.tables import DrawingSource, EvaluationSource, RunSource
from ddpo.report.wording import count
from ddpo.runtime.errors import DDPOError, ExperimentError

ALL = "all"
"""Names every experiment that comes with the package."""

Tell = Callable[[str], None]

_NOT_RECORDED: dict[str, Any] = {"version": "not recorded", "commit": None, "machine": {}}
"""The origin of a step whose marker does not say it."""


@dataclass(frozen=True)
class Options:
    """How experiments are run."""

    scale: Scale = "embedded"
    seeds: int | None = None
    """Seeds instead of the number in the experiment's file."""
    budget: float = 1.0
    """Factor on the reward queries of every run."""
    jobs: int | None = None
    """Runs at one time; None: one a GPU or core."""
    output: Path = Path("results")
    """A folder of results for each experiment."""
    work: Path = Path("runs/reproduce")
    """Run folders, logs and locks."""


def experiments_named(source: str, scale: Scale) -> list[Experiment]:
    """Return the experiment of a name or file; with `all`, every one that has the scale.

    Raises:
        ExperimentError: there is none, or it is malformed.
    """
    if source != ALL:
        return [load_experiment(source)]
    return [experiment for experiment in map(load_experiment, experiment_names()) if scale in experiment.scales]


def reproduce(experiments: Sequence[Experiment], options: Options, tell: Tell) -> list[Path]:
    """Run what is not finished of the experiments and return the folders of their results.

    Raises:
        ExperimentError: a reward or prompts cannot be loaded, or a folder of results holds something else; nothing is
            run. Or a run failed, or results could not be written; all others are written before.
        ConfigError: a run cannot be configured; nothing is run.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the subprocesses are stopped.
    """
    runs = {
        experiment.name: runs_of(experiment, options.scale, seeds=options.seeds, budget=options.budget)
        for experiment in experiments
    }
    for experiment in experiments:
        check_rewards_and_prompts(experiment, runs[experiment.name])
        check_output(options.output / experiment.name)
    devices = machine.gpus()
    origin = {"version": __version__, "commit": machine.commit(), "machine": machine.describe(devices)}
    environment = {"OMP_NUM_THREADS": "1"} if options.scale == "embedded" else {}
    all_runs = [run for named in runs.values() for run in named]
    steps = {step.name: step for step in steps_of(all_runs, options.work, environment, origin)}
    slots = machine.slots(options.jobs, devices, options.scale)
    tell(f"{count(len(steps), 'step')}, {len(slots)} at a time, in {options.work}")
    _warn_of_changes(steps, all_runs, tell)
    outcome = Runner(list(steps.values()), slots, tell).run()
    folders, problems = [], list[str]()
    for experiment in experiments:
        needed = {step.name: step for step in steps_of(runs[experiment.name], options.work, environment, origin)}
        if outcome.failed.keys() & needed.keys():
            continue
        try:
            folders.append(_publish(experiment, options, runs[experiment.name], needed))
            tell(f"{experiment.name} written into {folders[-1]}")
        except (DDPOError, OSError) as error:
            problems.append(f"{experiment.name} was not written: {error}")
            tell(problems[-1])
    _report_failures(outcome, len(steps), problems)
    return folders


def _publish(experiment: Experiment, options: Options, runs: Sequence[Run], steps: Mapping[str, Step]) -> Path:
    """Write the results of finished runs and return their folder."""
    about = about_results(experiment, options, runs, steps)
    return publish(experiment, [source_of(run, options.work) for run in runs], about, options.output)


def source_of(run: Run, work: Path) -> RunSource:
    """Return a finished run as the tables need it."""
    evaluations = [
        EvaluationSource(prompt_set.label, evaluation_file(run, prompt_set, work)) for prompt_set in run.prompt_sets
    ]
    drawings = [
        DrawingSource(prompt_set.label, tuple(prompt_set.show), *folders)
        for prompt_set in run.prompt_sets
        if (folders := drawing_folders(run, prompt_set, work)) is not None
    ]
    return RunSource(work / run.name, run.recipe_name, run.variant, run.seed, tuple(evaluations), tuple(drawings))


def about_results(
    experiment: Experiment, options: Options, runs: Sequence[Run], steps: Mapping[str, Step]
) -> dict[str, Any]:
    """Return how results came about, for about.json: command, versions, machines, time; no paths or host names."""
    origins: dict[str, dict[str, Any]] = {}
    for step in steps.values():
        finished = step.finished()
        origin = finished.get("origin") or _NOT_RECORDED
        entry = origins.setdefault(json.dumps(origin), {**origin, "steps": 0, "seconds": 0.0})
        entry["steps"] += 1
        entry["seconds"] = round(entry["seconds"] + finished["seconds"], 1)
    queries = sorted({run.queries for run in runs})
    changed: dict[str, list[str]] = {}
    for run in runs:
        for setting in changed_settings(steps[run.name], run):
            changed.setdefault(setting, []).append(run.name)
    return {
        "experiment": experiment.name,
        "scale": options.scale,
        "seeds": len({run.seed for run in runs}),
        "budget": options.budget,
        "queries": " or ".join(f"{number:,}" for number in queries),
        "command": _command(experiment, options),
        "date": datetime.now(UTC).date().isoformat(),
        "made_with": list(origins.values()),
        "notes": [
            f"{count(len(names), 'run')} of {len(runs)} had another setting than the recipe has now, {setting}: "
            f"{', '.join(names)}."
            for setting, names in changed.items()
        ],
    }


def _command(experiment: Experiment, options: Options) -> str:
    """Return the command that reproduces an experiment, without folders, which change nothing in the results."""
    shipped = experiment.name in experiment_names()
    words = ["ddpo", "reproduce", experiment.name if shipped else f"{experiment.name}.yaml"]
    if options.scale != "embedded":
        words += ["--scale", options.scale]
    if options.seeds is not None:
        words += ["--seeds", str(options.seeds)]
    if options.budget != 1:
        words += ["--budget", f"{options.budget:g}"]
    return " ".join(words)


def _report_failures(outcome: Outcome, number: int, problems: Sequence[str]) -> None:
    """Raise ExperimentError if a step failed, or with the `problems` in writing results."""
    sentences = list(problems)
    if outcome.failed:
        sentences.insert(
            0,
            f"{len(outcome.failed)} of {number} steps failed ({', '.join(outcome.failed)}); the reasons stand above. "
            "The others are finished and kept: the same command runs only what failed.",
        )
    if sentences:
        raise ExperimentError(" ".join(sentences))


def _warn_of_changes(steps: Mapping[str, Step], runs: Sequence[Run], tell: Tell) -> None:
    """Say which finished runs were trained with settings that the recipe no longer has."""
    for run in {run.name: run for run in runs}.values():
        step = steps[run.name]
        changed = changed_settings(step, run) if step.is_finished else []
        if changed:
            tell(f"{step.name} had other settings: {'; '.join(changed)}; delete {step.product} to train it anew")
