"""What `ddpo doctor` prints: on a terminal in colours, as wide as it is; elsewhere plain."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ddpo.doctor.checks import Check
from ddpo.doctor.diagnosis import Diagnosis
from ddpo.report.findings import ENOUGH_ITERATIONS, Finding

WIDTH_OF_A_FILE = 120
"""Characters in a line where there is no terminal to fit it to."""
NAME_WIDTH = 15
MARKS = {
    "ok": ("✓", "green"),
    "clear": ("✓", "green"),
    "warning": ("!", "yellow"),
    "failed": ("✗", "bold red"),
    "problem": ("✗", "bold red"),
    "note": ("·", "dim"),
    "skipped": ("-", "dim"),
    "unknown": ("-", "dim"),
}
"""Mark and style of what came of a check, and of the severity of a finding."""


def print_checks(checks: Iterable[Check]) -> list[Check]:
    """Print each check as soon as it is done, and what they come to."""
    console, done = _console(), list[Check]()
    with console.status("checking"):
        for check in checks:
            done.append(check)
            _print(console, _row_of(check))
    counts = {status: sum(check.outcome.status == status for check in done) for status in ("failed", "warning")}
    console.print()
    if counts["failed"]:
        console.print(f"{_count(counts['failed'], 'check')} failed; lines with → say what to do.", style="bold red")
    elif counts["warning"]:
        told = f"Ready to train, with {_count(counts['warning'], 'warning')}; lines with → say what to change."
        console.print(told, style="bold yellow")
    else:
        console.print("Ready to train.", style="bold green")
    return done


def _row_of(check: Check) -> Table:
    """Return mark, name and text of a check in columns, with the advice below."""
    outcome = check.outcome
    took = f" ({check.seconds:.1f} s)" if check.seconds >= 1 else ""
    table = _grid()
    table.add_column(width=NAME_WIDTH)
    table.add_column(overflow="fold")
    mark, style = MARKS[outcome.status]
    name = Text(check.name, "bold" if outcome.status in ("failed", "warning") else "")
    table.add_row(Text(mark, style), name, Text.assemble(outcome.text, (took, "dim")))
    if outcome.advice:
        table.add_row("", "", Text(f"→ {outcome.advice}", "cyan"))
    return table


def print_diagnosis(diagnosis: Diagnosis) -> None:
    """Print what was found, signs first, and what that comes to."""
    console, run = _console(), diagnosis.run
    planned = f" of {run.planned:,}" if run.planned not in (None, run.done) else ""
    heading = f"{run.name}: {run.done:,}{planned} iterations, trained on {run.trained_reward or 'an unknown reward'}"
    console.print(f"{heading}\n", style="bold")
    for problem in run.problems:
        _print(console, _paragraph("warning", Text(problem), ""))
    for finding in diagnosis.findings:
        _print(console, _paragraph(finding.severity, _told(finding), finding.advice))
    console.print(f"\n{verdict(diagnosis)}", style="bold")


def _told(finding: Finding) -> Text:
    is_sign = finding.level == "sign"
    title = f"{finding.severity}: {finding.subject}. " if is_sign else f"{finding.subject}: "
    seen = f" [{', '.join(finding.keys)}]" if finding.keys else ""
    return Text.assemble((title, "bold" if is_sign else ""), finding.text, (seen, "dim"))


def verdict(diagnosis: Diagnosis) -> str:
    """Return one sentence on a run."""
    problems, warnings, done = diagnosis.problems, diagnosis.warnings, diagnosis.run.done
    if problems or warnings:
        told = [_count(number, word) for number, word in ((problems, "problem"), (warnings, "warning")) if number]
        return f"{' and '.join(told)}; lines with → say what to change. A warning is a reason to look, not a verdict."
    if done < ENOUGH_ITERATIONS:
        return f"Nothing was found, but {_count(done, 'iteration')} say little about a run."
    return "Healthy: nothing was found that keeps this run from learning."


def _paragraph(status: str, text: Text, advice: str) -> Table:
    """Return a mark and a text beside it, with the advice below."""
    mark, style = MARKS[status]
    table = _grid()
    table.add_column(overflow="fold")
    table.add_row(Text(mark, style), text)
    if advice:
        table.add_row("", Text(f"→ {advice}", "cyan"))
    return table


def _grid() -> Table:
    """Return a table without lines whose first column is a mark."""
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    return table


def _print(console: Console, table: Table) -> None:
    """Print a table; into a file or pipe without the spaces that fill up its columns."""
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        console.out(line.rstrip(), highlight=False)


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else WIDTH_OF_A_FILE, highlight=False, markup=False)


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s'[: number != 1]}"
