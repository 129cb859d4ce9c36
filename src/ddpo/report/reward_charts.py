"""Charts that put runs side by side: the reward of the iterations, and what was measured on the fixed samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ddpo.report.chart import Chart, Line
from ddpo.report.curve import NORMAL_95, running_mean
from ddpo.report.fixed_samples import measured, mirrors
from ddpo.runs.record import EvaluationRecord, RunRecord

COLOURS = 8
"""Colours of runs in assets/page.css."""


def run_style(index: int) -> str:
    """Return the CSS classes that give run number `index`, from 0, its colour; those after the last are dashed."""
    return f"run-{index % COLOURS + 1}{' again' if index >= COLOURS else ''}"


def x_label(runs: Sequence[RunRecord]) -> str:
    """Return what the horizontal axis counts."""
    return "reward queries" if all(run.counts_queries for run in runs) else "iterations"


def reward_curves(runs: Sequence[RunRecord]) -> list[Chart]:
    """Return the mean reward of the iterations against reward queries, one chart for each trained reward."""
    groups: dict[str, list[int]] = {}
    for index, run in enumerate(runs):
        groups.setdefault(run.label(run.trained_reward) if run.trained_reward else "reward", []).append(index)
    return [
        Chart(
            "Reward through training",
            "Mean reward of each iteration's samples (dots), their running mean (line) and its 95 % interval (band). "
            "Higher is better.",
            x_label([runs[index] for index in members]),
            label,
            [line for index in members for line in _reward_lines(runs[index], run_style(index))],
            large=True,
        )
        for label, members in groups.items()
    ]


def _reward_lines(run: RunRecord, style: str) -> list[Line]:
    x, mean = run.series("reward/mean")
    if not x:
        return []
    known = dict(zip(*run.series("reward/standard_error"), strict=True))
    mean_N, error_N = np.array(mean), np.array([known.get(place, 0.0) for place in x])
    window = 2 * (len(x) // 10 // 2) + 1
    smooth_N, smooth_error_N = running_mean(mean_N, error_N, window)
    band = NORMAL_95 * smooth_error_N
    low, high = ((smooth_N - band).tolist(), (smooth_N + band).tolist()) if known else (None, None)
    if window == 1:
        return [Line(run.name, style, x, mean, low, high)]
    dots = Line(f"{run.name}, iteration", style, x, mean, shape="dots")
    return [dots, Line(run.name, style, x, smooth_N.tolist(), low, high, shape="line")]


def measure_charts(runs: Sequence[RunRecord]) -> list[Chart]:
    """Return a chart for each reward measured on the fixed samples, their diversity and the divergence."""
    rewards = dict.fromkeys(
        reward for run in runs for evaluation in run.evaluations[-1:] for reward in evaluation.rewards
    )
    charts = [_reward_chart(runs, reward) for reward in rewards]
    charts.append(
        _measure_chart(
            runs,
            "Diversity of the fixed samples",
            "Root mean square difference of two samples' pixels (0 to 1), averaged over all pairs; it falls when "
            "samples become alike.",
            "pixel difference",
            lambda evaluation: evaluation.diversity,
        )
    )
    charts.append(
        _measure_chart(
            runs,
            "Divergence from the base model",
            "KL divergence of whole trajectories from the model before training: the price of the reward.",
            "nats",
            lambda evaluation: evaluation.kl_to_base,
        )
    )
    return [chart for chart in [*charts, *_reward_against_divergence(runs)] if chart.lines]


def _reward_chart(runs: Sequence[RunRecord], reward: str) -> Chart:
    lines = []
    for index, run in enumerate(runs):
        scored = [
            (run.position(evaluation.iteration), mean.mean, mean.low, mean.high)
            for evaluation in run.evaluations
            if (mean := measured(evaluation, reward)) is not None
        ]
        if scored:
            x, y, low, high = (list(column) for column in zip(*scored, strict=True))
            lines.append(Line(run.name, run_style(index), x, y, low, high))
    labels = [run.label(reward) for run in runs if any(reward in evaluation.labels for evaluation in run.evaluations)]
    return Chart(
        labels[0] if labels else reward,
        f"{_role(runs, reward)}: mean and 95 % interval.",
        x_label(runs),
        "mean of the fixed samples",
        lines,
    )


def _role(runs: Sequence[RunRecord], reward: str) -> str:
    if any(run.trained_reward == reward for run in runs):
        return "The trained reward"
    if all(mirrors(run, reward) for run in runs):
        return "The trained reward with the opposite sign"
    return "Measured, not trained"


def _measure_chart(
    runs: Sequence[RunRecord],
    title: str,
    note: str,
    y_label: str,
    measure: Callable[[EvaluationRecord], float | None],
) -> Chart:
    lines = []
    for index, run in enumerate(runs):
        found = [
            (run.position(evaluation.iteration), value)
            for evaluation in run.evaluations
            if (value := measure(evaluation)) is not None
        ]
        if found:
            lines.append(Line(run.name, run_style(index), [x for x, _ in found], [y for _, y in found]))
    return Chart(title, note, x_label(runs), y_label, lines, from_zero=True)


def _reward_against_divergence(runs: Sequence[RunRecord]) -> list[Chart]:
    """Return the trained reward against the divergence, where all runs train the same and more than one measured it."""
    trained = {run.trained_reward for run in runs}
    if len(runs) < 2 or len(trained) != 1 or None in trained:
        return []
    reward = str(next(iter(trained)))
    lines = []
    for index, run in enumerate(runs):
        found = [
            (evaluation.kl_to_base, float(score_B.mean()))
            for evaluation in run.evaluations
            if evaluation.kl_to_base is not None and (score_B := evaluation.scores(reward)) is not None
        ]
        if found:
            lines.append(Line(run.name, run_style(index), [x for x, _ in found], [y for _, y in found]))
    note = "What a reward costs: compare runs at the same divergence rather than at the same iteration."
    return [Chart("Reward against divergence", note, "nats from the base model", runs[0].label(reward), lines)]
