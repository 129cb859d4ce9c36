"""Curves over reward queries: effectiveness (Figure 3), single prompts (4), overoptimisation (7), rounds (8)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ddpo.experiments.figures.style import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    ORANGE,
    VERMILION,
    WIDTH,
    Kind,
    draw_points,
    kinds,
    legend_above,
    new_figure,
    note,
    queries_axis,
    shifts,
)
from ddpo.experiments.overoptimisation import parting
from ddpo.experiments.results import Point, Runs, TextRow, distinct, read_rows
from ddpo.report.wording import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FAINTLY = "Faint: mean of each iteration's training samples, at the queries before that iteration."

_GOLD = (
    ("evaluation_judge-recognition", "recognition (share)", Kind("recognition", VERMILION, "s")),
    ("evaluation_diversity", "diversity", Kind("diversity", GREEN, "^")),
    ("evaluation_kl_to_base", "divergence (nats)", Kind("divergence", ORANGE, "D")),
)
"""What tells overoptimisation: column, axis label and look."""


def panel_title(recipe: str) -> str:
    """Return a recipe's name without the model's."""
    return recipe.removeprefix("emoji-").replace("-", " ")


def kind_title(recipe: str, variant: str | None) -> str:
    """Return words for a recipe, and for the variant where there are several to tell apart."""
    return panel_title(recipe) if variant is None else f"{panel_title(recipe)}, {variant}"


def _intervals(runs: Runs) -> str:
    return (
        f"Points: mean over {count(len(runs.seeds), 'seed')} of the fixed samples' reward, a little apart to be told "
        "from each other; bars: 95 % interval (Student)."
    )


def effectiveness(folder: Path) -> Figure:
    """Draw a panel a reward: the trained reward of every algorithm against reward queries. Paper Figure 3."""
    runs = Runs.read(folder)
    figure = new_figure(4.1, _width(len(runs.recipes)))
    panels = figure.subplots(1, len(runs.recipes), squeeze=False)[0]
    for axes, recipe in zip(panels, runs.recipes, strict=True):
        reach = max(point.queries for variant in runs.variants for point in runs.points(recipe, variant))
        for kind, shift in zip(kinds(runs.variants), shifts(len(runs.variants), reach), strict=True):
            _draw_training_means(axes, runs.training_points(recipe, kind.name), kind)
            draw_points(axes, runs.points(recipe, kind.name), kind, shift=shift)
        _finish(axes, panel_title(recipe), runs.label(recipe))
    legend_above(figure, panels[0])
    note(figure, f"{_intervals(runs)}\n{FAINTLY}")
    return figure


def rounds(folder: Path) -> Figure:
    """Draw a panel a reward: the trained reward of each variant after every round. Paper Figure 8."""
    from matplotlib.ticker import MaxNLocator

    runs = Runs.read(folder)
    figure = new_figure(4.3, max(6.4, _width(len(runs.recipes))))
    panels = figure.subplots(1, len(runs.recipes), squeeze=False)[0]
    for axes, recipe in zip(panels, runs.recipes, strict=True):
        reach = max(point.iteration for point in runs.points(recipe, runs.variants[0]))
        for kind, shift in zip(kinds(runs.variants), shifts(len(runs.variants), reach), strict=True):
            points = runs.points(recipe, kind.name)
            draw_points(axes, points, kind, x=[point.iteration for point in points], shift=shift)
        _mark_base(axes, runs.points(recipe, runs.variants[0]))
        _finish(axes, panel_title(recipe), runs.label(recipe))
        axes.set_xlabel("rounds of sampling and training")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.xaxis.set_major_formatter("{x:.0f}")
    legend_above(figure, panels[0])
    note(figure, _intervals(runs))
    return figure


def overoptimisation(folder: Path) -> Figure:
    """Draw a column a reward: the trained reward, and below it what it should not cost. Paper Figure 7."""
    runs = Runs.read(folder)
    variant = runs.variants[0]
    measures = [gold for gold in _GOLD if any(runs.points(recipe, variant, gold[0]) for recipe in runs.recipes)]
    figure = new_figure(2.1 * (1 + len(measures)) + 0.5, max(6.4, 4.7 * len(runs.recipes)))
    panels = figure.subplots(1 + len(measures), len(runs.recipes), sharex="col", squeeze=False)
    for column, recipe in enumerate(runs.recipes):
        draw_points(panels[0, column], runs.points(recipe, variant), Kind("trained reward", BLUE, "o"))
        _finish(panels[0, column], panel_title(recipe), runs.label(recipe))
        for row, (measure, label, kind) in enumerate(measures, start=1):
            points = runs.points(recipe, variant, measure)
            if points:
                draw_points(panels[row, column], points, kind)
                _mark_base(panels[row, column], points)
            _finish(panels[row, column], "", label)
        for axes in panels[:-1, column]:
            axes.set_xlabel("")
        _mark_parting(list(panels[:, column]), runs, recipe, variant)
    figure.align_ylabels(panels)
    note(
        figure,
        f"Points: mean over {count(len(runs.seeds), 'seed')} of the fixed samples; bars: 95 % interval (Student). "
        "Diversity: pixel difference of two samples.\nDivergence: of a trajectory from the base model. Dotted: where "
        "recognition, with the trained reward above the base model's, is clearly below it from then on.",
    )
    return figure


def prompts(folder: Path) -> Figure:
    """Draw a panel a prompt source: every prompt's reward, faint, and their mean, thick. Paper Figure 4."""
    rows = read_rows(folder / "prompts.csv")
    runs = Runs.read(folder)
    groups = distinct(row["variant"] for row in rows)
    figure = new_figure(4.3, max(6.4, _width(len(groups))))
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for axes, kind in zip(panels, kinds(groups), strict=True):
        for x_N, y_N in single_prompts([row for row in rows if row["variant"] == kind.name]).values():
            axes.plot(x_N, y_N, color=kind.color, alpha=0.22, linewidth=0.9, zorder=2)
        draw_points(axes, runs.points(runs.recipes[0], kind.name), kind)
        _finish(axes, kind.name, rows[0]["label"])
    for axes in panels[1:]:
        axes.set_ylabel("")
    note(
        figure,
        f"Thick: mean over all prompts and {count(len(runs.seeds), 'seed')}; bars: 95 % interval over seeds. "
        "Faint: single prompts, mean over seeds.",
    )
    return figure


def single_prompts(rows: Sequence[TextRow]) -> dict[str, tuple[list[int], list[float]]]:
    """Return for each prompt the reward queries and its mean reward over the runs."""
    values: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        values.setdefault(row["prompt"], {}).setdefault(int(row["queries"]), []).append(float(row["reward_mean"]))
    return {
        prompt: (sorted(by_queries), [float(np.mean(by_queries[queries])) for queries in sorted(by_queries)])
        for prompt, by_queries in values.items()
    }


def _draw_training_means(axes: Axes, points: Sequence[Point], kind: Kind) -> None:
    """Draw the mean of every iteration's training samples, faintly."""
    axes.plot(
        [point.queries for point in points],
        [point.mean.mean for point in points],
        color=kind.color,
        alpha=0.35,
        linewidth=1.0,
        zorder=2,
    )


def _mark_base(axes: Axes, points: Sequence[Point]) -> None:
    """Draw the base model's level across the panel."""
    axes.axhline(points[0].mean.mean, color=FAINT, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
    axes.annotate(
        "base model",
        (1.0, points[0].mean.mean),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right",
        fontsize=8.5,
        color=FAINT,
    )


def _mark_parting(panels: Sequence[Axes], runs: Runs, recipe: str, variant: str) -> None:
    """Draw a vertical line through a column of panels where recognition parts from the trained reward."""
    found = parting(runs, recipe, variant)
    if found is not None:
        for axes in panels:
            axes.axvline(found.queries, color=INK, linewidth=1.2, linestyle=(0, (1, 2)), zorder=1)


def _finish(axes: Axes, title: str, label: str) -> None:
    axes.set_title(title, color=INK)
    axes.set_ylabel(label)
    axes.margins(x=0.04, y=0.08)
    queries_axis(axes)


def _width(panels: int) -> float:
    """Return inches for so many panels side by side."""
    return min(WIDTH + 1.5, 1.2 + 3.45 * panels)
