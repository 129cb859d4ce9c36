"""Runs experiments and writes their results: tables, figure and page."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ddpo.experiments import machine
from ddpo.experiments.definition import Experiment, Scale, experiment_names, load_experiment, plan_of
from ddpo.experiments.plan import Run, check_rewards_and_prompts, runs_of, steps_of
from ddpo.experiments.publishing import check_output, publish
from ddpo.experiments.runner import Runner
from ddpo.report.wording import count
from ddpo.runtime.errors import DDPOError, ExperimentError

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """How experiments are run: the options of `ddpo reproduce`."""

    scale: Scale = "embedded"
    seeds: int | None = None
    budget: float = 1.0
    jobs: int | None = None
    output: Path = Path("results")
    work: Path = Path("runs/reproduce")


def experiments_named(source: str, scale: Scale) -> list[Experiment]:
    """Return the experiment of a name or file; with `all`, every one of the package that has the scale.

    Raises ExperimentError when there is none, or it is malformed.
    """
    if source != "all":
        return [load_experiment(source)]
    return [experiment for experiment in map(load_experiment, experiment_names()) if scale in experiment.scales]


def reproduce(experiments: Sequence[Experiment], options: Options, tell: Tell) -> list[Path]:
    """Run what is not finished of the experiments and return the folders of their results.

    Raises:
        ExperimentError, ConfigError: a run cannot be configured, a reward or prompts cannot be loaded, a folder is in
            use or holds something else; nothing is run. Or a run failed, or results could not be written; all others
            are written before.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the subprocesses are stopped.
    """
    runs = {each.name: runs_of(each, options.scale, seeds=options.seeds, budget=options.budget) for each in experiments}
    all_runs = [run for named in runs.values() for run in named]
    check_rewards_and_prompts(all_runs)
    for experiment in experiments:
        check_output(options.output / experiment.name)
    devices = machine.gpus()
    steps, slots = steps_of(all_runs, options.work), machine.slots(options.jobs, devices, options.scale)
    tell(f"{count(len(steps), 'step')}, {len(slots)} at a time, in {options.work}")
    failed = Runner(options.work, slots, tell, machine.origin(devices)).run(steps)
    folders, problems = [], list[str]()
    if failed:
        problems.append(
            f"{len(failed)} of {len(steps)} steps failed ({', '.join(failed)}); the reasons stand above. The others "
            "are finished and kept: the same command runs only what failed."
        )
    for experiment in experiments:
        mine = runs[experiment.name]
        if failed.keys() & {step.name for step in steps_of(mine, options.work)}:
            continue
        try:
            about, finished = about_results(experiment, options, mine), [run.finished(options.work) for run in mine]
            folders.append(publish(experiment, finished, about, options.output))
            tell(f"{experiment.name} written into {folders[-1]}")
        except (DDPOError, OSError) as error:
            problems.append(f"{experiment.name} was not written: {error}")
            tell(problems[-1])
    if problems:
        raise ExperimentError(" ".join(problems))
    return folders


def about_results(experiment: Experiment, options: Options, runs: Sequence[Run]) -> dict[str, Any]:
    """Return how results came about, for about.json: command, versions, machines, time; no paths or host names."""
    origins: dict[str, dict[str, Any]] = {}
    for step in steps_of(runs, options.work):
        finished = json.loads(step.marker.read_text(encoding="utf-8"))
        entry = origins.setdefault(json.dumps(finished["origin"]), {**finished["origin"], "steps": 0, "seconds": 0.0})
        entry["steps"] += 1
        entry["seconds"] = round(entry["seconds"] + finished["seconds"], 1)
    queries = {run.config.iterations * run.config.samples_per_iteration for run in runs}
    return {
        "experiment": experiment.name,
        "scale": options.scale,
        "seeds": len({run.config.seed for run in runs}),
        "budget": options.budget,
        "asked": f"{plan_of(experiment, options.scale).queries:,}",
        "queries": " or ".join(f"{number:,}" for number in sorted(queries)),
        "command": _command(experiment, options),
        "date": datetime.now(UTC).date().isoformat(),
        "made_with": list(origins.values()),
    }


def _command(experiment: Experiment, options: Options) -> str:
    """Return the command that reproduces an experiment, without folders, which change nothing in the results."""
    words = [experiment.name if experiment.name in experiment_names() else f"{experiment.name}.yaml"]
    if options.scale != "embedded":
        words += ["--scale", options.scale]
    if options.seeds is not None:
        words += ["--seeds", str(options.seeds)]
    if options.budget != 1:
        words += ["--budget", f"{options.budget:g}"]
    return " ".join(["ddpo reproduce", *words])
