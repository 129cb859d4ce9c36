"""The charts and tables of a page: rewards, what was measured on the fixed samples, what the metrics tell."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Sequence

import numpy as np

from ddpo.report.chart import Chart, Line
from ddpo.report.curve import NORMAL_95, running_mean
from ddpo.report.fixed_samples import measured
from ddpo.report.intervals import Mean
from ddpo.report.wording import MINUS, duration, number, share
from ddpo.runs.record import EvaluationRecord, RunRecord

COLOURS = 8
"""Colours of runs in assets/page.css."""
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

Measure = Callable[[EvaluationRecord], Mean | float | None]
"""What was measured at an evaluation; None: it was not."""


def run_style(index: int) -> str:
    """Return the CSS classes that give run number `index`, from 0, its colour; those after the last are dashed."""
    return f"run-{index % COLOURS + 1}{' again' if index >= COLOURS else ''}"


def _x_label(runs: Sequence[RunRecord]) -> str:
    return "reward queries" if all(run.counts_queries for run in runs) else "iterations"


def reward_curves(runs: Sequence[RunRecord]) -> list[Chart]:
    """Return the mean reward of the iterations against reward queries, one chart for each trained reward."""
    groups: dict[str, list[int]] = {}
    for index, run in enumerate(runs):
        groups.setdefault(run.label(run.trained_reward) if run.trained_reward else "reward", []).append(index)
    note = (
        "Mean reward of each iteration's samples (dots), their running mean (line) and its 95 % interval (band). "
        "Higher is better."
    )
    charts = []
    for label, members in groups.items():
        lines = [line for index in members for line in _reward_lines(runs[index], run_style(index))]
        axis = _x_label([runs[index] for index in members])
        charts.append(Chart("Reward through training", note, axis, label, lines, large=True))
    return charts


def _reward_lines(run: RunRecord, style: str) -> list[Line]:
    x, mean = run.series("reward/mean")
    if not x:
        return []
    known = dict(zip(*run.series("reward/standard_error"), strict=True))
    smooth_N, error_N = running_mean(np.array(mean), np.array([known.get(place, 0.0) for place in x]))
    band_N = NORMAL_95 * error_N
    edges = ((smooth_N - band_N).tolist(), (smooth_N + band_N).tolist()) if known else ()
    return [Line(run.name, style, x, mean, dots=True), Line(run.name, style, x, smooth_N.tolist(), *edges)]


def measure_charts(runs: Sequence[RunRecord]) -> list[Chart]:
    """Return a chart for each reward measured on the fixed samples, their diversity and the divergence."""
    axis, charts = _x_label(runs), []
    rewards = dict.fromkeys(name for run in runs for newest in run.evaluations[-1:] for name in newest.rewards)
    for reward in rewards:
        role = "The trained reward" if any(run.trained_reward == reward for run in runs) else "Measured, not trained"
        label = next((label for run in reversed(runs) if (label := run.label(reward)) != reward), reward)
        lines = _lines(runs, _mean_of(reward))
        charts.append(Chart(label, f"{role}: mean and 95 % interval.", axis, "mean of the fixed samples", lines))
    note = "Root mean square difference of two samples, averaged over all pairs; it falls when samples become alike."
    lines = _lines(runs, lambda evaluation: evaluation.diversity)
    charts.append(Chart("Diversity of the fixed samples", note, axis, "difference", lines, from_zero=True))
    note = "KL divergence of whole trajectories from the model before training: the price of the reward."
    lines = _lines(runs, lambda evaluation: evaluation.kl_to_base)
    charts.append(Chart("Divergence from the base model", note, axis, "nats", lines, from_zero=True))
    trained = {run.trained_reward for run in runs}
    reward_of_all = trained.pop()
    if len(runs) > 1 and not trained and reward_of_all is not None:
        note = "What a reward costs: compare runs at the same divergence rather than at the same iteration."
        lines = _lines(runs, _mean_of(reward_of_all), against_divergence=True)
        label = runs[0].label(reward_of_all)
        charts.append(Chart("Reward against divergence", note, "nats from the base model", label, lines))
    return charts


def _mean_of(reward: str) -> Measure:
    return lambda evaluation: measured(evaluation, reward)


def _lines(runs: Sequence[RunRecord], measure: Measure, *, against_divergence: bool = False) -> list[Line]:
    """Return a line for each run through what was measured, over reward queries or without bands over divergence."""
    lines = []
    for index, run in enumerate(runs):
        x, means = [], []
        for evaluation in run.evaluations:
            place = evaluation.kl_to_base if against_divergence else run.position(evaluation.iteration)
            value = measure(evaluation)
            if place is not None and value is not None:
                x.append(place)
                means.append(value)
        y = [value.mean if isinstance(value, Mean) else value for value in means]
        intervals = [] if against_divergence else [value for value in means if isinstance(value, Mean)]
        edges = ([mean.low for mean in intervals], [mean.high for mean in intervals]) if intervals else ()
        lines.append(Line(run.name, run_style(index), x, y, *edges))
    return lines


def diagnostic_charts(run: RunRecord, style: str) -> list[Chart]:
    """Return a chart of each known metric that the run has, with its stretches of the denoising run.

    `style` gives the colour of a metric without them.
    """
    charts = []
    for metric, title, y_label, note in _DIAGNOSTICS:
        if keys := _charted(run, metric):
            lines = [_metric_line(run, key, style if len(keys) == 1 else "whole") for key in keys]
            charts.append(Chart(title, note, _x_label([run]), y_label, lines, metric in _LOGARITHMIC, from_zero=True))
    return charts


def _charted(run: RunRecord, key: str) -> list[str]:
    """Return the stretches of a metric that has them, in order, and the metric itself last; none if it is always 0."""
    buckets = [(int(match[2]), name) for name in run.keys if (match := _BUCKET.fullmatch(name)) and match[1] == key]
    keys = [name for _, name in sorted(buckets)] + [name for name in run.keys if name == key]
    return [name for name in keys if any(run.series(name)[1])]


def _metric_line(run: RunRecord, key: str, style: str) -> Line:
    x, y = run.series(key)
    match = _BUCKET.fullmatch(key)
    if match is None:
        return Line("all" if style == "whole" else run.name, style, x, y)
    names = {1: "fifth 1, noisiest", 5: "fifth 5, last"}
    bucket = int(match[2])
    return Line(names.get(bucket, f"fifth {bucket}"), f"bucket-{(bucket - 1) % _STYLES + 1}", x, y)


def phase_times(run: RunRecord) -> tuple[float, list[tuple[str, str, str, str]]]:
    """Return the seconds that all phases took, and name, total, median of an iteration and share, longest first."""
    laps = {key.removeprefix("time/"): run.series(key)[1] for key in run.keys if key.startswith("time/")}
    totals = sorted(((sum(seconds), name) for name, seconds in laps.items() if seconds), reverse=True)
    whole = sum(total for total, _ in totals)
    rows = [
        (name, duration(total), duration(statistics.median(laps[name])), share(total / (whole or 1.0)))
        for total, name in totals
    ]
    return whole, rows


def other_metrics(run: RunRecord) -> list[tuple[str, ...]]:
    """Return key, first, last, lowest and highest value of every metric that nothing else on the page shows."""
    shown = _SHOWN_ELSEWHERE | {key for metric, *_ in _DIAGNOSTICS for key in _charted(run, metric)}
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
