"""The report page: one self-contained HTML file of one or several runs (docs/report.md). Never imports torch."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ddpo.report.chart import Chart, Drawing, draw
from ddpo.report.charts import (
    diagnostic_charts,
    measure_charts,
    other_metrics,
    phase_times,
    reward_curves,
    run_style,
)
from ddpo.report.fixed_samples import change
from ddpo.report.gallery import BUDGET, build_gallery
from ddpo.report.signs import findings
from ddpo.report.wording import alike, count, duration, share, split_unit, with_error
from ddpo.runs.configurations import differences
from ddpo.runs.record import RunRecord
from ddpo.runtime.errors import RunFolderError
from ddpo.runtime.files import write_atomically


class Fact(NamedTuple):
    """One number of a run's headline."""

    name: str
    value: str
    small_print: str = ""


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


def _view(run: RunRecord, index: int, budget: int) -> dict[str, Any]:
    """Return one run as the template wants it."""
    seconds, times = phase_times(run)
    found = findings(run)
    return {
        "run": run,
        "anchor": f"run-{index + 1}",
        "style": run_style(index),
        "result": _result(run),
        "effort": _effort(run, seconds),
        "state": _state(run),
        "signs": [finding for finding in found if finding.level == "sign"],
        "other_looks": [finding for finding in found if finding.level != "sign"],
        "gallery": build_gallery(run, budget),
        "diagnostics": _drawn(diagnostic_charts(run, run_style(index))),
        "times": times,
        "others": other_metrics(run),
    }


def _drawn(charts: Sequence[Chart]) -> list[Drawing]:
    return [drawing for chart in charts if (drawing := draw(chart)) is not None]


def _result(run: RunRecord) -> Fact | None:
    """Return what became of the trained reward; None where it was not measured twice."""
    changed = change(run, run.trained_reward)
    if changed is None:
        return None
    name, unit = split_unit(run.label(changed.reward))
    before, after = alike(changed.before, changed.after)
    difference = f"{with_error(changed.difference.mean, changed.difference.error, sign=True)} {unit}".rstrip()
    part = changed.difference.mean / abs(changed.before) if changed.before else 0.0
    relative = f" ({share(part, sign=True)})" if part else ""
    samples = count(len(run.evaluations[-1].samples), "fixed sample")
    return Fact(name, f"{before} → {after} {unit}".rstrip(), f"{difference}{relative}, paired on {samples}")


def _effort(run: RunRecord, seconds: float) -> list[Fact]:
    planned = f"of {run.planned:,}" if run.planned not in (None, run.done) else ""
    effort = [Fact("iterations", f"{run.done:,}", planned)]
    if run.metrics and run.counts_queries:
        effort.append(Fact("reward queries", f"{run.axis[-1]:,.0f}"))
    if seconds:
        effort.append(Fact("training time", duration(seconds), "without evaluations"))
    return effort


def _state(run: RunRecord) -> str:
    """Return sentences on what is missing: iterations still to come, evaluations; none of a whole run."""
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
