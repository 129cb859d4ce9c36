"""Charts: effectiveness (Figure 3), single prompts (4), generalisation (6), overoptimisation (7), rounds (8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ddpo.experiments import results
from ddpo.experiments.figures import style
from ddpo.experiments.figures.style import Kind, draw_points, kinds, new_figure, note
from ddpo.experiments.results import Change, Point, Runs, grouped, panel_title, read_rows
from ddpo.report.wording import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GOLD = (
    (results.RECOGNITION, "recognition (share)", Kind("recognition", style.VERMILION, "s")),
    ("evaluation_diversity", "diversity", Kind("diversity", style.GREEN, "^")),
    ("evaluation_kl_to_base", "divergence (nats)", Kind("divergence", style.ORANGE, "D")),
)
"""What tells overoptimisation: column, axis label and look."""


def effectiveness(folder: Path) -> Figure:
    """Draw a panel a reward: the trained reward of every algorithm against reward queries. Paper Figure 3."""
    runs = Runs(folder)
    figure, panels = _row_of_panels(len(runs.recipes), 4.1, 0)
    for axes, recipe in zip(panels, runs.recipes, strict=True):
        for kind in kinds(runs.variants):
            points = runs.training_points(recipe, kind.name)
            means = [point.mean.mean for point in points]
            axes.plot([point.queries for point in points], means, color=kind.color, alpha=0.35, linewidth=1.0, zorder=2)
            draw_points(axes, runs.points(recipe, kind.name), kind)
        _finish(axes, panel_title(recipe), runs.label(recipe))
    style.legend_above(figure, panels[0])
    faintly = "Faint: mean of each iteration's training samples, at the queries before that iteration."
    note(figure, f"{_intervals(runs)}\n{faintly}")
    return figure


def rounds(folder: Path) -> Figure:
    """Draw a panel a reward: the trained reward of each variant after every round. Paper Figure 8."""
    from matplotlib.ticker import MaxNLocator

    runs = Runs(folder)
    figure, panels = _row_of_panels(len(runs.recipes), 4.3, 6.4)
    for axes, recipe in zip(panels, runs.recipes, strict=True):
        for kind in kinds(runs.variants):
            draw_points(axes, runs.points(recipe, kind.name), kind, rounds=True)
        _mark_base(axes, runs.points(recipe, runs.variants[0]))
        _finish(axes, panel_title(recipe), runs.label(recipe), "rounds of sampling and training")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.xaxis.set_major_formatter("{x:.0f}")
    style.legend_above(figure, panels[0])
    note(figure, _intervals(runs))
    return figure


def overoptimisation(folder: Path) -> Figure:
    """Draw a column a reward: the trained reward, and below it what it should not cost. Paper Figure 7."""
    runs = Runs(folder)
    variant = runs.variants[0]
    measures = [gold for gold in _GOLD if any(runs.points(recipe, variant, gold[0]) for recipe in runs.recipes)]
    figure = new_figure(2.1 * (1 + len(measures)) + 0.5, max(6.4, 4.7 * len(runs.recipes)))
    panels = figure.subplots(1 + len(measures), len(runs.recipes), sharex="col", squeeze=False)
    for column, recipe in zip(panels.T, runs.recipes, strict=True):
        draw_points(column[0], runs.points(recipe, variant), Kind("trained reward", style.BLUE, "o"))
        _finish(column[0], panel_title(recipe), runs.label(recipe), "" if measures else "reward queries")
        for axes, (measure, label, kind) in zip(column[1:], measures, strict=True):
            points = runs.points(recipe, variant, measure)
            if points:
                draw_points(axes, points, kind)
                _mark_base(axes, points)
            _finish(axes, "", label, "reward queries" if axes is column[-1] else "")
        queries = results.parting(runs, recipe, variant)
        for axes in column if queries is not None else ():
            axes.axvline(queries, color=style.INK, linewidth=1.2, linestyle=(0, (1, 2)), zorder=1)
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
    runs, groups = Runs(folder), grouped(read_rows(folder / "prompts.csv"), "variant")
    figure, panels = _row_of_panels(len(groups), 4.3, 6.4, sharey=True)
    for axes, rows, kind in zip(panels, groups, kinds([rows[0]["variant"] for rows in groups]), strict=True):
        for at_each in (grouped(part, "queries") for part in grouped(rows, "prompt")):
            x_N = [int(of_seeds[0]["queries"]) for of_seeds in at_each]
            y_N = [float(np.mean([float(row["reward_mean"]) for row in of_seeds])) for of_seeds in at_each]
            axes.plot(x_N, y_N, color=kind.color, alpha=0.22, linewidth=0.9, zorder=2)
        draw_points(axes, runs.points(runs.recipes[0], kind.name), replace(kind, shift=0.0))
        _finish(axes, kind.name, rows[0]["label"] if axes is panels[0] else "")
    note(
        figure,
        f"Thick: mean over all prompts and {count(len(runs.seeds), 'seed')}; bars: 95 % interval over seeds. "
        "Faint: single prompts, mean over seeds.",
    )
    return figure


def generalisation(folder: Path) -> Figure:
    """Draw a row a recipe and variant: the change of each reward on each prompt set, with intervals and every seed."""
    table = read_rows(folder / "evaluation.csv")
    kinds = [results.changes(rows) for rows in grouped(table, "recipe", "variant")]
    trained = [[change for change in kind if change.row["is_trained_reward"] == "1"] for kind in kinds]
    others = [[change for change in kind if change.row["is_trained_reward"] != "1"] for kind in kinds]
    columns = 2 if any(others) else 1
    figure = new_figure(len(kinds) * (1.35 + 0.45 * max(map(len, trained))) + 0.5, 5.4 * columns)
    panels = figure.subplots(len(kinds), columns, squeeze=False)
    for axes, of_trained, of_others in zip(panels, trained, others, strict=True):
        _draw_changes(axes[0], of_trained, style.BLUE)
        axes[0].set_title(f"trained on {results.kind_title(table, of_trained[0].row)}")
        if columns == 2:
            _draw_changes(axes[1], of_others, style.VERMILION)
    seeds = max(len(change.by_seed) for kind in kinds for change in kind)
    note(
        figure,
        f"Trained minus base model at the same prompts and seeds. Bars: 95 % interval over prompts (bootstrap); "
        f"small circles: each of {count(seeds, 'seed')} trained.",
    )
    return figure


def _row_of_panels(number: int, height: float, least: float, **sharing: Any) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure with so many panels side by side, of a height and at least a width in inches."""
    figure = new_figure(height, max(least, min(11.5, 1.2 + 3.45 * number)))
    return figure, figure.subplots(1, number, squeeze=False, **sharing)[0]


def _intervals(runs: Runs) -> str:
    return (
        f"Points: mean over {count(len(runs.seeds), 'seed')} of the fixed samples' reward, a little apart to be told "
        "from each other; bars: 95 % interval (Student)."
    )


def _mark_base(axes: Axes, points: Sequence[Point]) -> None:
    """Draw the base model's level across the panel."""
    level = points[0].mean.mean
    axes.axhline(level, color=style.FAINT, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1)
    place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "xytext": (0, 3), "textcoords": "offset points"}
    axes.annotate("base model", (1.0, level), ha="right", fontsize=8.5, color=style.FAINT, **place)


def _finish(axes: Axes, title: str, label: str, below: str = "reward queries") -> None:
    """Name a panel and its axes, with separated thousands on the lower one."""
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, color=style.INK)
    axes.set_ylabel(label)
    axes.set_xlabel(below)
    axes.margins(x=0.04, y=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _draw_changes(axes: Axes, found: Sequence[Change], color: str) -> None:
    """Draw one point with its interval for each prompt set, from top to bottom."""
    if not found:
        axes.set_axis_off()
        return
    point: dict[str, Any] = {
        "color": color,
        "marker": "o",
        "markersize": 8,
        "markeredgecolor": "white",
        "elinewidth": 2.2,
    }
    seed: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 4.5, "markerfacecolor": "white"}
    for place, change in enumerate(found):
        mean = change.mean
        reach = [[mean.mean - mean.low], [mean.high - mean.mean]]
        axes.errorbar(mean.mean, place, xerr=reach, capsize=4, zorder=3, **point)
        axes.plot(change.by_seed, [place + 0.24] * len(change.by_seed), markeredgecolor=color, **seed)
    axes.axvline(0, color=style.FAINT, linewidth=1.2, zorder=1)
    names = [f"{change.row['prompt_set']}\n({change.mean.number} prompts)" for change in found]
    axes.set_yticks(range(len(found)), names)
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.set_xlabel(f"change of {found[0].row['label']}")
    axes.grid(axis="y", visible=False)
