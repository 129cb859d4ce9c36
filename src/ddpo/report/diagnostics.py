"""What the metrics say of the training itself: charts of known ones, seconds a phase, and a table of all others."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from ddpo.report.chart import Chart, Line
from ddpo.report.curve import MINUS
from ddpo.report.reward_charts import run_style, x_label
from ddpo.report.wording import duration, number, share
from ddpo.runs.record import RunRecord, finite

_BUCKET = re.compile(r"(.+)/bucket_(\d+)")
_STYLES = 5
"""Colours of stretches of the denoising run in assets/page.css."""


@dataclass(frozen=True)
class Diagnostic:
    """A metric that has a chart."""

    key: str
    title: str
    note: str
    y_label: str
    log: bool = False
    from_zero: bool = False
    hidden_at_zero: bool = False
    """Whether a metric that is always 0 goes into the table instead."""


DIAGNOSTICS = (
    Diagnostic(
        "ratio/max_error_at_start",
        "Error of the importance ratio",
        f"Largest |ratio {MINUS} 1| before the first update: 0 up to rounding, or the replay is not exact. The run "
        "stops when it exceeds a tenth of the clip.",
        f"|ratio {MINUS} 1|",
        log=True,
        from_zero=True,
    ),
    Diagnostic(
        "clip_fraction",
        "Clip fraction",
        "Share of (sample, step) pairs whose ratio lay outside the clip range. Near 1, updates hit the clip at once.",
        "share of pairs",
        from_zero=True,
    ),
    Diagnostic(
        "kl/step",
        "Divergence of a step",
        "KL divergence of a denoising step from the policy that drew it to the present one.",
        "nats",
        log=True,
        from_zero=True,
    ),
    Diagnostic("gradient_norm", "Gradient norm", "Before clipping, averaged over an iteration's updates.", "norm",
               from_zero=True),
    Diagnostic(
        "reward/std",
        "Spread of the rewards",
        "Standard deviation of the rewards of an iteration's samples. Without a spread there is nothing to learn from.",
        "standard deviation",
        from_zero=True,
    ),
    Diagnostic(
        "denoising_loss",
        "Denoising loss",
        "Squared error of what the network predicts (noise, velocity or sample), unweighted.",
        "loss",
        from_zero=True,
    ),
    Diagnostic(
        "weight/effective_samples",
        "Effective samples",
        "How many equally weighted samples the weights of an iteration are worth. Near 1, a single sample decides.",
        "samples",
        from_zero=True,
    ),
    Diagnostic(
        "updates_skipped",
        "Updates left out",
        "Updates of an iteration left out because the scaled gradient overflowed; only in half precision.",
        "updates",
        from_zero=True,
        hidden_at_zero=True,
    ),
)  # fmt: skip

_SHOWN_ELSEWHERE = {"iteration", "reward_queries", "reward/mean", "reward/standard_error"}


@dataclass(frozen=True)
class PhaseTime:
    """Seconds spent in one phase of the training."""

    name: str
    style: str
    total: str
    median: str
    """Of an iteration."""
    percent: float
    share: str


@dataclass(frozen=True)
class OtherMetric:
    """A metric without a chart."""

    key: str
    first: str
    last: str
    lowest: str
    highest: str
    path: str
    """Its course as SVG path data on 100 x 100 units; empty where it has fewer than two values."""


def diagnostic_charts(run: RunRecord, style: str) -> list[Chart]:
    """Return a chart of each known metric that the run has, with its stretches of the denoising run.

    `style` gives the colour of a metric without them.
    """
    return [chart for diagnostic in DIAGNOSTICS if (chart := _chart(run, diagnostic, style)).lines]


def phase_times(run: RunRecord) -> list[PhaseTime]:
    """Return the seconds of each phase, the longest first."""
    seconds = {key.removeprefix("time/"): run.series(key)[1] for key in run.keys if key.startswith("time/")}
    totals = sorted(((sum(laps), name) for name, laps in seconds.items() if laps), reverse=True)
    whole = sum(total for total, _ in totals) or 1.0
    return [
        PhaseTime(
            name,
            run_style(index),
            duration(total),
            duration(statistics.median(seconds[name])),
            round(100 * total / whole, 2),
            share(total / whole),
        )
        for index, (total, name) in enumerate(totals)
    ]


def total_seconds(run: RunRecord) -> float | None:
    """Return the seconds that the phases of all iterations took, or None where none was measured."""
    laps = [lap for key in run.keys if key.startswith("time/") for lap in run.series(key)[1]]
    return sum(laps) if laps else None


def other_metrics(run: RunRecord) -> list[OtherMetric]:
    """Return every metric that no chart and no other table of the page shows."""
    charted = {
        key for diagnostic in DIAGNOSTICS if _is_charted(run, diagnostic) for key in _family(run, diagnostic.key)
    }
    shown = charted | _SHOWN_ELSEWHERE | set(_evaluation_keys(run))
    return [_other(run, key) for key in run.keys if key not in shown and not key.startswith("time/")]


def _chart(run: RunRecord, diagnostic: Diagnostic, style: str) -> Chart:
    keys = _family(run, diagnostic.key) if _is_charted(run, diagnostic) else []
    lines = [_line(run, key, style if len(keys) == 1 else "whole") for key in keys]
    return Chart(
        diagnostic.title,
        diagnostic.note,
        x_label([run]),
        diagnostic.y_label,
        [line for line in lines if line.x],
        log=diagnostic.log,
        from_zero=diagnostic.from_zero,
    )


def _is_charted(run: RunRecord, diagnostic: Diagnostic) -> bool:
    values = [value for key in _family(run, diagnostic.key) for value in run.series(key)[1]]
    return any(values) if diagnostic.hidden_at_zero else bool(values)


def _family(run: RunRecord, key: str) -> list[str]:
    """Return the stretches of a metric that has them, in order, and the metric itself last."""
    buckets = [(int(match[2]), name) for name in run.keys if (match := _BUCKET.fullmatch(name)) and match[1] == key]
    return [name for _, name in sorted(buckets)] + [name for name in run.keys if name == key]


def _line(run: RunRecord, key: str, style: str) -> Line:
    x, y = run.series(key)
    match = _BUCKET.fullmatch(key)
    if match is None:
        return Line("all" if style == "whole" else run.name, style, x, y)
    names = {1: "fifth 1, noisiest", 5: "fifth 5, last"}
    bucket = int(match[2])
    return Line(names.get(bucket, f"fifth {bucket}"), f"bucket-{(bucket - 1) % _STYLES + 1}", x, y)


def _evaluation_keys(run: RunRecord) -> Iterable[str]:
    """Yield the metrics that repeat what the records of the fixed samples say."""
    if run.evaluations:
        yield from (f"evaluation/{reward}/mean" for reward in run.evaluations[-1].rewards)
        if any(evaluation.diversity is not None for evaluation in run.evaluations):
            yield "evaluation/diversity"
        if any(evaluation.kl_to_base is not None for evaluation in run.evaluations):
            yield "evaluation/kl_to_base"


def _other(run: RunRecord, key: str) -> OtherMetric:
    x, y = run.series(key)
    if not y:
        values = [str(row[key]) for row in run.metrics if key in row and finite(row[key]) is None]
        return OtherMetric(key, values[0], values[-1], "", "", "")
    low, high = min(y), max(y)
    path = ""
    if len(y) > 1:
        places = [
            (100 * a / (x[-1] or 1.0), 90 - 80 * (b - low) / (high - low) if high > low else 50.0)
            for a, b in zip(x, y, strict=True)
        ]
        path = "M" + " L".join(f"{a:.1f} {b:.1f}" for a, b in places)
    return OtherMetric(key, number(y[0]), number(y[-1]), number(low), number(high), path)
