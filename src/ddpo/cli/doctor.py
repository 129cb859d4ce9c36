"""`ddpo doctor`: whether a recipe can train on this machine, or what keeps a run from learning."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddpo.runtime.errors import ConfigError

if TYPE_CHECKING:
    from ddpo.doctor.checks import Check
    from ddpo.doctor.diagnosis import Diagnosis

FAILED = 1
"""Exit code where a check failed or a run has a problem; 2 is for what cannot be looked at, as everywhere."""


def doctor(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RECIPE|FILE.yaml|RUN] [KEY=VALUE]...", help="What to look at; a run is its folder."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
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
    """Return whether a folder is meant and not a recipe or file.

    Raises ConfigError for a path where nothing is.
    """
    from ddpo.config import recipes

    path = Path(source).expanduser()
    if "/" in source and not path.exists():
        raise ConfigError(f"There is neither a run folder nor a configuration file {path}.")
    return path.is_dir() and source not in dict(recipes())


def _look_at_recipe(source: str | None, overrides: Sequence[str], as_json: bool) -> bool:
    """Show every check; return whether none failed."""
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub's client is imported: looking must not download anything
    from ddpo.doctor.recipe import examine

    if as_json:
        with redirect_stdout(sys.stderr):  # a user's reward may print
            checks = list(examine(source, overrides, offline=offline))
        typer.echo(json.dumps(_checks_record(checks), indent=1, allow_nan=False))
    else:
        from ddpo.cli.doctor_tables import print_checks

        checks = print_checks(examine(source, overrides, offline=offline))
    return not any(check.outcome.status == "failed" for check in checks)


def _look_at_run(path: Path, as_json: bool) -> bool:
    """Show what was found in a run; return whether none of it is a problem."""
    from ddpo.doctor.diagnosis import diagnose
    from ddpo.runs.folder import RunFolder

    diagnosis = diagnose(RunFolder.open(path))
    if as_json:
        typer.echo(json.dumps(_diagnosis_record(diagnosis), indent=1, allow_nan=False))
    else:
        from ddpo.cli.doctor_tables import print_diagnosis

        print_diagnosis(diagnosis)
    return not diagnosis.problems


def _checks_record(checks: Sequence[Check]) -> dict[str, object]:
    entries = [
        {
            "name": check.name,
            "status": check.outcome.status,
            "text": check.outcome.text,
            "advice": check.outcome.advice,
            "seconds": round(check.seconds, 3),
        }
        for check in checks
    ]
    return {"healthy": not any(entry["status"] == "failed" for entry in entries), "checks": entries}


def _diagnosis_record(diagnosis: Diagnosis) -> dict[str, object]:
    return {
        "run": diagnosis.run.name,
        "iterations": diagnosis.run.done,
        "healthy": not diagnosis.problems,
        "findings": [
            {
                "severity": finding.severity,
                "subject": finding.subject,
                "text": finding.text,
                "keys": list(finding.keys),
                "advice": finding.advice,
            }
            for finding in diagnosis.findings
        ],
        "not_read": diagnosis.run.problems,
    }
