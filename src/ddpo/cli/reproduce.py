"""`ddpo reproduce`: the paper's figures."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from ddpo.experiments.definition import Experiment


def reproduce(
    experiment: Annotated[
        str | None, typer.Argument(metavar="[EXPERIMENT|FILE.yaml|all]", help="What to reproduce; none: list them.")
    ] = None,
    scale: Annotated[
        Literal["embedded", "paper"], typer.Option(help="The embedded model on CPUs, or Stable Diffusion on GPUs.")
    ] = "embedded",
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds of each run. Default: the experiment's, 3.")] = None,
    budget: Annotated[float, typer.Option(min=1e-6, help="Factor on the reward queries of every run.")] = 1.0,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at one time. Default: one a GPU, or a core.")] = None,
    output: Annotated[Path, typer.Option(help="Tables, figure and page go to a folder in here.")] = Path("results"),
    work: Annotated[Path, typer.Option(help="Run folders; given again, finished runs are used.")] = Path(
        "runs/reproduce"
    ),
) -> None:
    """Reproduce a figure of the paper: run, tabulate, draw.

    Stopped at any moment and given again, the command runs what is not finished yet.
    """
    from ddpo.experiments.definition import experiment_names, load_experiment
    from ddpo.experiments.reproduce import Options, experiments_named
    from ddpo.experiments.reproduce import reproduce as run

    if experiment is None:
        _print_list([load_experiment(name) for name in experiment_names()])
        return
    options = Options(scale, seeds, budget, jobs, output, work)
    try:
        folders = run(experiments_named(experiment, scale), options, _print_with_time)
    except KeyboardInterrupt:
        typer.echo("Stopped. What is finished is kept; run the same command again to go on.", err=True)
        raise typer.Exit(130) from None
    for folder in folders:
        typer.echo(f"results   {folder / 'README.md'}")


def _print_with_time(line: str) -> None:
    typer.echo(f"{time.strftime('%H:%M:%S')} {line}")


def _print_list(experiments: list[Experiment]) -> None:
    """Print a line for each experiment."""
    width = max(len(experiment.name) for experiment in experiments)
    for experiment in experiments:
        typer.echo(f"{experiment.name:<{width}}  {experiment.summary}")
    typer.echo("\nddpo reproduce NAME runs one, ddpo reproduce all every one.")
