"""The report page: one self-contained HTML file of one or several runs (docs/report.md). Never imports torch."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ddpo.report.chart import Chart, PlacedChart, place
from ddpo.report.contact_sheet import BUDGET
from ddpo.report.diagnostics import (
    OtherMetric,
    PhaseTime,
    diagnostic_charts,
    other_metrics,
    phase_times,
    total_seconds,
)
from ddpo.report.findings import Finding
from ddpo.report.fixed_samples import Change, trained_change
from ddpo.report.gallery import Gallery, build_gallery
from ddpo.report.reward_charts import measure_charts, reward_curves, run_style
from ddpo.report.signs import findings
from ddpo.report.wording import alike, count, duration, signed_share, split_unit, with_error
from ddpo.runs.configurations import differences
from ddpo.runs.record import RunRecord
from ddpo.runtime.errors import RunFolderError
from ddpo.runtime.files import write_atomically

_ASSETS = resources.files("ddpo.report") / "assets"


@dataclass(frozen=True)
class Fact:
    """One number of a headline."""

    name: str
    value: str
    small_print: str = ""


@dataclass(frozen=True)
class Headline:
    """The result of a run in words and in a row of numbers."""

    sentence: str
    result: Fact | None
    """What became of the trained reward, the paired difference in small print; None where it was not measured twice."""
    effort: list[Fact]
    """What it took."""


@dataclass(frozen=True)
class RunView:
    """One run as the page shows it."""

    run: RunRecord
    anchor: str
    style: str
    """CSS class of its colour."""
    headline: Headline
    state: str
    """A sentence on what is missing: iterations still to come, evaluations; empty for a whole run."""
    findings: list[Finding]
    gallery: Gallery | None
    diagnostics: list[PlacedChart]
    times: list[PhaseTime]
    others: list[OtherMetric]

    def of_level(self, level: str) -> list[Finding]:
        """Return the findings of one level."""
        return [finding for finding in self.findings if finding.level == level]


def write_page(runs: Sequence[RunRecord], output: Path) -> None:
    """Write the report of `runs`, one at least, to the file `output`.

    Raises:
        RunFolderError: the file cannot be written.
    """
    content = render_page(runs).encode()
    try:
        write_atomically(output, content)
    except OSError as error:
        raise RunFolderError(f"output: {output} cannot be written: {error.strerror}; give another file.") from error


def render_page(runs: Sequence[RunRecord]) -> str:
    """Return the HTML of the report of `runs`, one at least. It loads nothing and allows no other script to run."""
    views = [_view(run, index, BUDGET // len(runs)) for index, run in enumerate(runs)]
    script = _asset("page.js")
    names = [run.name for run in runs]
    title = names[0] if len(runs) == 1 else f"{len(runs)} runs: {', '.join(names)}"
    return (
        _environment()
        .from_string(_asset("page.html"))
        .render(
            title=title,
            views=views,
            curves=_placed(reward_curves(runs)),
            measures=_placed(measure_charts(runs)),
            differences=differences(runs),
            css=Markup(_asset("page.css") + "\n".join(view.gallery.css for view in views if view.gallery)),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


def _view(run: RunRecord, index: int, budget: int) -> RunView:
    anchor = f"run-{index + 1}"
    return RunView(
        run,
        anchor,
        run_style(index),
        _headline(run),
        _state(run),
        findings(run),
        build_gallery(run, anchor, budget),
        _placed(diagnostic_charts(run, run_style(index))),
        phase_times(run),
        other_metrics(run),
    )


def _placed(charts: Sequence[Chart]) -> list[PlacedChart]:
    return [placed for chart in charts if (placed := place(chart)) is not None]


def _headline(run: RunRecord) -> Headline:
    changed = trained_change(run)
    queries = run.axis[-1] if run.metrics and run.counts_queries else None
    seconds = total_seconds(run)
    planned = f"of {run.planned:,}" if run.planned is not None and run.planned != run.done else ""
    effort = [Fact("iterations", f"{run.done:,}", planned)]
    if queries is not None:
        effort.append(Fact("reward queries", f"{queries:,.0f}"))
    if seconds is not None:
        effort.append(Fact("training time", duration(seconds), "without evaluations"))
    result = None if changed is None else _result(run, changed)
    return Headline(_sentence(run, changed, queries, seconds), result, effort)


def _result(run: RunRecord, changed: Change) -> Fact:
    name, unit = split_unit(run.label(changed.reward))
    before, after = alike(changed.before, changed.after)
    difference = with_error(changed.difference.mean, changed.difference.error, sign=True)
    return Fact(name, f"{before} → {after} {unit}".rstrip(), f"{difference} {unit}".rstrip())


def _sentence(run: RunRecord, changed: Change | None, queries: float | None, seconds: float | None) -> str:
    effort = [count(run.done, "iteration")]
    effort += [count(int(queries), "reward query")] if queries is not None else []
    effort += [f"{duration(seconds)} of training"] if seconds is not None else []
    spent = f"{', '.join(effort[:-1])} and {effort[-1]}" if len(effort) > 1 else effort[0]
    if changed is None:
        return f"{spent}; the trained reward was not measured on fixed samples before and after."
    name, unit = split_unit(run.label(changed.reward))
    unit = f" {unit}" if unit else ""
    before, after = alike(changed.before, changed.after)
    samples = len(run.evaluations[-1].samples)
    prompts = f"{samples:,} prompts and seeds" if samples > 1 else "prompt and seed"
    difference = with_error(changed.difference.mean, changed.difference.error, sign=True)
    certainty = "± its standard error" if changed.difference.error > 0 else "without a standard error"
    relative = ""
    if changed.before != 0 and changed.difference.mean != 0:
        part = changed.difference.mean / abs(changed.before)
        relative = f", {signed_share(part)}"
    return (
        f"On the same {prompts} the mean {name} went from {before} to {after}{unit}: a paired difference of "
        f"{difference}{unit} ({certainty}{relative}), after {spent}."
    )


def _state(run: RunRecord) -> str:
    sentences = []
    if not run.metrics:
        sentences.append("No iteration has finished yet, so there are no curves.")
    elif run.planned is not None and run.done < run.planned:
        sentences.append(
            f"{run.done:,} of {count(run.planned, 'iteration')} are done: the run is still going on, or it was stopped."
        )
    if not run.evaluations:
        sentences.append("There is no evaluation of fixed samples in the folder, so there are no pictures.")
    elif len(run.evaluations) == 1:
        sentences.append(f"The fixed samples were drawn once only, at iteration {run.evaluations[0].iteration}.")
    reasons = dict.fromkeys(reason for evaluation in run.evaluations for reason in evaluation.not_measured)
    return " ".join([*sentences, *(f"Not measured: {reason}" for reason in reasons), *run.problems])


@cache
def _environment() -> Environment:
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


@cache
def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")
