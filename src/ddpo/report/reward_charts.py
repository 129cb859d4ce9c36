"""Charts that put runs side by side: the reward of the iterations, and what was measured on the fixed samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ddpo.report.chart import Chart, Line
from ddpo.report.curve import NORMAL_95, running_mean
from ddpo.report.fixed_samples import measured
from ddpo.runs.record import EvaluationRecord, RunRecord

COLOURS = 8
"""Colours of runs in assets/page.css."""

Point = Sequence[float] | None
"""Place and value, and the edges of a band where there is one; None: not measured."""


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
    smooth_N, error_N = running_mean(np.array(mean), np.array([known.get(place, 0.0) for place in x]))
    band_N = NORMAL_95 * error_N
    edges = ((smooth_N - band_N).tolist(), (smooth_N + band_N).tolist()) if known else ()
    return [Line(run.name, style, x, mean, dots=True), Line(run.name, style, x, smooth_N.tolist(), *edges)]


def measure_charts(runs: Sequence[RunRecord]) -> list[Chart]:
    """Return a chart for each reward measured on the fixed samples, their diversity and the divergence."""
    rewards = dict.fromkeys(
        reward for run in runs for evaluation in run.evaluations[-1:] for reward in evaluation.rewards
    )
    charts = [_reward_chart(runs, reward) for reward in rewards]
    axis = x_label(runs)
    note = "Root mean square difference of two samples, averaged over all pairs; it falls when samples become alike."
    lines = _lines(runs, lambda run, e: None if e.diversity is None else (run.position(e.iteration), e.diversity))
    charts.append(Chart("Diversity of the fixed samples", note, axis, "difference", lines, from_zero=True))
    note = "KL divergence of whole trajectories from the model before training: the price of the reward."
    lines = _lines(runs, lambda run, e: None if e.kl_to_base is None else (run.position(e.iteration), e.kl_to_base))
    charts.append(Chart("Divergence from the base model", note, axis, "nats", lines, from_zero=True))
    return [*charts, *_reward_against_divergence(runs)]


def _lines(runs: Sequence[RunRecord], point: Callable[[RunRecord, EvaluationRecord], Point]) -> list[Line]:
    """Return a line for each run through what `point` gives for its evaluations."""
    lines = []
    for index, run in enumerate(runs):
        rows = [row for evaluation in run.evaluations if (row := point(run, evaluation)) is not None]
        if rows:
            x, y, *edges = (list(column) for column in zip(*rows, strict=True))
            low, high = edges or (None, None)
            lines.append(Line(run.name, run_style(index), x, y, low, high))
    return lines


def _reward_chart(runs: Sequence[RunRecord], reward: str) -> Chart:
    def point(run: RunRecord, evaluation: EvaluationRecord) -> Point:
        mean = measured(evaluation, reward)
        return None if mean is None else (run.position(evaluation.iteration), mean.mean, mean.low, mean.high)

    role = "The trained reward" if any(run.trained_reward == reward for run in runs) else "Measured, not trained"
    label = next((label for run in reversed(runs) if (label := run.label(reward)) != reward), reward)
    note = f"{role}: mean and 95 % interval."
    return Chart(label, note, x_label(runs), "mean of the fixed samples", _lines(runs, point))


def _reward_against_divergence(runs: Sequence[RunRecord]) -> list[Chart]:
    """Return the trained reward against the divergence, where all of several runs train the same."""
    reward = runs[0].trained_reward
    if len(runs) < 2 or reward is None or any(run.trained_reward != reward for run in runs):
        return []

    def point(_: RunRecord, evaluation: EvaluationRecord) -> Point:
        score_B = evaluation.scores(reward)
        return None if evaluation.kl_to_base is None or score_B is None else (evaluation.kl_to_base, score_B.mean())

    note = "What a reward costs: compare runs at the same divergence rather than at the same iteration."
    label = runs[0].label(reward)
    return [Chart("Reward against divergence", note, "nats from the base model", label, _lines(runs, point))]
