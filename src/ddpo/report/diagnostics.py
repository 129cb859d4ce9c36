"""What the metrics say of the training itself: charts of known ones, seconds a phase, and a table of all others."""

from __future__ import annotations

import re
import statistics

from ddpo.report.chart import Chart, Line
from ddpo.report.reward_charts import x_label
from ddpo.report.wording import MINUS, duration, number, share
from ddpo.runs.record import RunRecord

_BUCKET = re.compile(r"(.+)/bucket_(\d+)")
_STYLES = 5
"""Colours of stretches of the denoising run in assets/page.css."""
_SHOWN_ELSEWHERE = {"iteration", "reward_queries", "reward/mean", "reward/standard_error"}


_DIAGNOSTICS = (
    ("ratio/max_error_at_start", "Error of the importance ratio", f"|ratio {MINUS} 1|",
     f"Largest |ratio {MINUS} 1| before the first update: 0 up to rounding, or the replay is not exact. The run stops "
     "when it exceeds a tenth of the clip."),
    ("clip_fraction", "Clip fraction", "share of pairs",
     "Share of (sample, step) pairs whose ratio lay outside the clip range. Near 1, updates hit the clip at once."),
    ("kl/step", "Divergence of a step", "nats",
     "KL divergence of a denoising step from the policy that drew it to the present one."),
    ("gradient_norm", "Gradient norm", "norm", "Before clipping, averaged over an iteration's updates."),
    ("reward/std", "Spread of the rewards", "standard deviation",
     "Standard deviation of the rewards of an iteration's samples. Without a spread there is nothing to learn from."),
    ("denoising_loss", "Denoising loss", "loss",
     "Squared error of what the network predicts (noise, velocity or sample), unweighted."),
    ("weight/effective_samples", "Effective samples", "samples",
     "How many equally weighted samples the weights of an iteration are worth. Near 1, a single sample decides."),
    ("updates_skipped", "Updates left out", "updates",
     "Updates of an iteration left out because their gradient was not finite."),
)  # fmt: skip
"""Key, title, axis and note of each metric that has a chart, unless it is always 0."""
_LOGARITHMIC = {"ratio/max_error_at_start", "kl/step"}


def diagnostic_charts(run: RunRecord, style: str) -> list[Chart]:
    """Return a chart of each known metric that the run has, with its stretches of the denoising run.

    `style` gives the colour of a metric without them.
    """
    charts = []
    for metric, title, y_label, note in _DIAGNOSTICS:
        if keys := _charted(run, metric):
            lines = [_line(run, key, style if len(keys) == 1 else "whole") for key in keys]
            charts.append(Chart(title, note, x_label([run]), y_label, lines, metric in _LOGARITHMIC, from_zero=True))
    return charts


def phase_times(run: RunRecord) -> list[tuple[str, str, str, str]]:
    """Return name, total, median of an iteration and share of each phase, the longest first."""
    seconds = {key.removeprefix("time/"): run.series(key)[1] for key in run.keys if key.startswith("time/")}
    totals = sorted(((sum(laps), name) for name, laps in seconds.items() if laps), reverse=True)
    whole = sum(total for total, _ in totals) or 1.0
    return [
        (name, duration(total), duration(statistics.median(seconds[name])), share(total / whole))
        for total, name in totals
    ]


def total_seconds(run: RunRecord) -> float | None:
    """Return the seconds that the phases of all iterations took, or None where none was measured."""
    laps = [lap for key in run.keys if key.startswith("time/") for lap in run.series(key)[1]]
    return sum(laps) if laps else None


def other_metrics(run: RunRecord) -> list[tuple[str, ...]]:
    """Return key, first, last, lowest and highest value of every metric that nothing else on the page shows."""
    charted = {key for metric, *_ in _DIAGNOSTICS for key in _charted(run, metric)}
    shown = charted | _SHOWN_ELSEWHERE
    rows: list[tuple[str, ...]] = []
    for key in run.keys:
        if key in shown or key.startswith("time/") or (run.evaluations and key.startswith("evaluation/")):
            continue
        if y := run.series(key)[1]:
            rows.append((key, *(number(value) for value in (y[0], y[-1], min(y), max(y)))))
        else:
            texts = [str(row[key]) for row in run.metrics if key in row]
            rows.append((key, texts[0], texts[-1], "", ""))
    return rows


def _charted(run: RunRecord, key: str) -> list[str]:
    """Return the stretches of a metric that has them, in order, and the metric itself last; none if it is always 0."""
    buckets = [(int(match[2]), name) for name in run.keys if (match := _BUCKET.fullmatch(name)) and match[1] == key]
    keys = [name for _, name in sorted(buckets)] + [name for name in run.keys if name == key]
    return [name for name in keys if any(run.series(name)[1])]


def _line(run: RunRecord, key: str, style: str) -> Line:
    x, y = run.series(key)
    match = _BUCKET.fullmatch(key)
    if match is None:
        return Line("all" if style == "whole" else run.name, style, x, y)
    names = {1: "fifth 1, noisiest", 5: "fifth 5, last"}
    bucket = int(match[2])
    return Line(names.get(bucket, f"fifth {bucket}"), f"bucket-{(bucket - 1) % _STYLES + 1}", x, y)
