"""`ddpo doctor`: whether a recipe can train on this machine, or what keeps a run from learning."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddpo.runtime.errors import ConfigError

if TYPE_CHECKING:
    from ddpo.doctor.checks import Check
    from ddpo.doctor.diagnosis import Diagnosis

FAILED = 1
"""Exit code where a check failed or a run has a problem; 2 is for what cannot be looked at, as everywhere."""
COLOURS = {"ok": "green", "clear": "green", "warning": "yellow", "failed": "red", "problem": "red", "unknown": None}
"""Of what came of a check, and of the severity of a finding."""
MARKS = {"green": "✓", "yellow": "!", "red": "✗", None: "-"}


def doctor(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RECIPE|FILE.yaml|RUN] [KEY=VALUE]...", help="What to look at; a run is its folder."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Check whether a recipe can train on this machine, or explain a run whose reward is flat or falls."""
    given = list(arguments or [])
    source = given.pop(0) if given and "=" not in given[0] else None
    extra = next((argument for argument in given if "=" not in argument), None)
    if extra is not None:
        raise ConfigError(f"'{extra}': give one recipe, file or run, first, and then settings as key=value.")
    if source is not None and _is_folder(source):
        if given:
            raise ConfigError(f"'{given[0]}': the settings of a run are those it had; leave them out.")
        healthy = _look_at_run(Path(source).expanduser(), as_json)
    else:
        healthy = _look_at_recipe(source, given, as_json)
    if not healthy:
        raise typer.Exit(FAILED)


def _is_folder(source: str) -> bool:
    """Return whether a folder is meant and not a recipe or file; raises ConfigError for a path where nothing is."""
    from ddpo.config import recipes

    path = Path(source).expanduser()
    if "/" in source and not path.exists():
        raise ConfigError(f"There is neither a run folder nor a configuration file {path}.")
    return path.is_dir() and source not in dict(recipes())


def _look_at_recipe(source: str | None, overrides: Sequence[str], as_json: bool) -> bool:
    """Show every check; return whether none failed."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub's client is imported: looking must not download anything
    from ddpo.doctor.checks import examine
    from ddpo.report.wording import count

    checks: list[Check] = []
    with redirect_stdout(sys.stderr) if as_json else nullcontext():  # a user's reward may print
        for check in examine(source, overrides):
            checks.append(check)
            if not as_json:
                _tell(check.status, f"{check.name}: {check.text}", check.advice)
    failed, warned = (sum(check.status == status for check in checks) for status in ("failed", "warning"))
    if as_json:
        _print_json({"healthy": not failed, "checks": [asdict(check) for check in checks]})
    elif failed:
        typer.secho(f"\n{count(failed, 'check')} failed.", bold=True)
    else:
        typer.secho(f"\nReady to train{', with ' + count(warned, 'warning') if warned else ''}.", bold=True)
    return not failed


def _look_at_run(path: Path, as_json: bool) -> bool:
    """Show what was found in a run; return whether none of it is a problem."""
    from ddpo.doctor.diagnosis import diagnose
    from ddpo.runs.folder import RunFolder

    diagnosis = diagnose(RunFolder.open(path))
    if as_json:
        told = ("severity", "subject", "text", "keys", "advice")
        _print_json(
            {
                "run": diagnosis.run.name,
                "iterations": diagnosis.run.done,
                "healthy": not diagnosis.problems,
                "findings": [{name: getattr(finding, name) for name in told} for finding in diagnosis.findings],
                "not_read": diagnosis.run.problems,
            }
        )
    else:
        print_diagnosis(diagnosis)
    return not diagnosis.problems


def print_diagnosis(diagnosis: Diagnosis) -> None:
    """Print what was found in a run, signs first, and what that comes to."""
    from ddpo.report.wording import count

    run = diagnosis.run
    told = count(run.done, "iteration")
    if run.planned is not None and run.planned != run.done:
        told = f"{run.done:,} of {count(run.planned, 'iteration')}"
    typer.secho(
        f"{run.name}: {told}, trained on {run.trained_reward or 'an unknown reward'}\n",
        bold=True,
    )
    for problem in run.problems:
        _tell("warning", problem, "")
    for finding in diagnosis.findings:
        seen = f" [{', '.join(finding.keys)}]" if finding.keys else ""
        _tell(finding.severity, f"{finding.subject}: {finding.text}{seen}", finding.advice)
    typer.secho(f"\n{diagnosis.verdict}", bold=True)


def _tell(status: str, text: str, advice: str) -> None:
    """Print a mark and a text beside it, with the advice below, as wide as the terminal."""
    colour, width = COLOURS[status], shutil.get_terminal_size((120, 24)).columns
    typer.secho(textwrap.fill(f"{MARKS[colour]} {text}", width, subsequent_indent="  "), fg=colour)
    if advice:
        typer.secho(textwrap.fill(f"  → {advice}", width, subsequent_indent="    "), fg="cyan")


def _print_json(record: dict[str, object]) -> None:
    typer.echo(json.dumps(record, indent=1, allow_nan=False))
