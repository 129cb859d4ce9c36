"""The report page: one self-contained HTML file of one or several runs (docs/report.md). Never imports torch."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ddpo.report.chart import Chart, Drawing, draw
from ddpo.report.diagnostics import diagnostic_charts, other_metrics, phase_times, total_seconds
from ddpo.report.findings import Finding
from ddpo.report.fixed_samples import trained_change
from ddpo.report.gallery import Gallery, build_gallery
from ddpo.report.reward_charts import measure_charts, reward_curves, run_style
from ddpo.report.signs import findings
from ddpo.report.tiles import BUDGET
from ddpo.report.wording import alike, count, duration, signed_share, split_unit, with_error
from ddpo.runs.configurations import differences
from ddpo.runs.record import RunRecord
from ddpo.runtime.errors import RunFolderError
from ddpo.runtime.files import write_atomically


@dataclass(frozen=True)
class Fact:
    """One number of a run's headline."""

    name: str
    value: str
    small_print: str = ""


@dataclass(frozen=True)
class RunView:
    """One run as the page shows it."""

    run: RunRecord
    anchor: str
    style: str
    """CSS class of its colour."""
    result: Fact | None
    """What became of the trained reward, the paired difference in small print; None where it was not measured twice."""
    effort: list[Fact]
    """What it took."""
    state: str
    """Sentences on what is missing: iterations still to come, evaluations; empty for a whole run."""
    findings: list[Finding]
    gallery: Gallery | None
    diagnostics: list[Drawing]
    times: list[tuple[str, str, str, str]]
    others: list[tuple[str, ...]]

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
    assets = resources.files("ddpo.report") / "assets"
    template, css, script = (
        (assets / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "page.js")
    )
    names = [run.name for run in runs]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(
        title=names[0] if len(runs) == 1 else f"{len(runs)} runs: {', '.join(names)}",
        views=[_view(run, index, BUDGET // len(runs)) for index, run in enumerate(runs)],
        curves=_drawn(reward_curves(runs)),
        measures=_drawn(measure_charts(runs)),
        differences=differences(runs),
        css=Markup(css),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _view(run: RunRecord, index: int, budget: int) -> RunView:
    return RunView(
        run,
        f"run-{index + 1}",
        run_style(index),
        _result(run),
        _effort(run),
        _state(run),
        findings(run),
        build_gallery(run, budget),
        _drawn(diagnostic_charts(run, run_style(index))),
        phase_times(run),
        other_metrics(run),
    )


def _drawn(charts: Sequence[Chart]) -> list[Drawing]:
    return [drawing for chart in charts if (drawing := draw(chart)) is not None]


def _result(run: RunRecord) -> Fact | None:
    changed = trained_change(run)
    if changed is None:
        return None
    name, unit = split_unit(run.label(changed.reward))
    before, after = alike(changed.before, changed.after)
    difference = f"{with_error(changed.difference.mean, changed.difference.error, sign=True)} {unit}".rstrip()
    part = changed.difference.mean / abs(changed.before) if changed.before else 0.0
    relative = f" ({signed_share(part)})" if part else ""
    samples = count(len(run.evaluations[-1].samples), "fixed sample")
    return Fact(name, f"{before} → {after} {unit}".rstrip(), f"{difference}{relative}, paired on {samples}")


def _effort(run: RunRecord) -> list[Fact]:
    planned = f"of {run.planned:,}" if run.planned not in (None, run.done) else ""
    effort = [Fact("iterations", f"{run.done:,}", planned)]
    if run.metrics and run.counts_queries:
        effort.append(Fact("reward queries", f"{run.axis[-1]:,.0f}"))
    if (seconds := total_seconds(run)) is not None:
        effort.append(Fact("training time", duration(seconds), "without evaluations"))
    return effort


def _state(run: RunRecord) -> str:
    sentences = []
    if not run.metrics:
        sentences.append("No iteration has finished yet, so there are no curves.")
    elif run.planned is not None and run.done < run.planned:
        sentences.append(
            f"{run.done:,} of {count(run.planned, 'iteration')} are done: the run is still going on, or it was stopped."
        )
    if not run.evaluations:
        sentences.append("There is no evaluation of fixed samples in the folder.")
    elif len(run.evaluations) == 1:
        sentences.append(f"The fixed samples were drawn once only, at iteration {run.evaluations[0].iteration}.")
    reasons = dict.fromkeys(reason for evaluation in run.evaluations for reason in evaluation.not_measured)
    return " ".join([*sentences, *(f"Not measured: {reason}" for reason in reasons), *run.problems])
