"""Charts: effectiveness (Figure 3), single prompts (4), generalisation (6), overoptimisation (7), rounds (8)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ddpo.experiments import results
from ddpo.experiments.results import Change, Point, Runs, grouped, panel_title, read_rows
from ddpo.report.wording import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FAINT = "#8c8c8c"
_MARKERS = "os^DvP"
"""Beside the colours of ddpo.mplstyle."""
_APART = 0.008
"""Share of the axis by which the points of two lines stand apart, so that their bars do not hide each other."""


@dataclass(frozen=True)
class Series:
    """A line through means with their intervals."""

    name: str
    points: Sequence[Point]
    look: int
    """Place of its colour and marker."""
    faint: Sequence[tuple[Sequence[float], Sequence[float]]] = ()
    """Thin lines of the same colour behind it: their places and values."""


@dataclass(frozen=True)
class Panel:
    """One chart of a figure."""

    title: str
    y_label: str
    series: list[Series]
    x: Literal["queries", "iteration"] = "queries"
    level: Point | None = None
    """The base model's, drawn across."""
    parting: int | None = None
    """Where a dotted line stands."""


def effectiveness(folder: Path) -> Figure:
    """Draw a panel a reward: the trained reward of every algorithm against reward queries. Paper Figure 3."""
    faintly = "\nFaint: mean of each iteration's training samples, at the queries before that iteration."
    return _by_recipe(folder, "queries", faintly)


def rounds(folder: Path) -> Figure:
    """Draw a panel a reward: the trained reward of each variant after every round. Paper Figure 8."""
    return _by_recipe(folder, "iteration", "")


def _by_recipe(folder: Path, x: Literal["queries", "iteration"], note: str) -> Figure:
    """Draw a panel a reward with a line for each variant: over queries the training samples, over rounds the base."""
    runs, panels = Runs(folder), []
    for recipe in runs.recipes:
        series = []
        for look, variant in enumerate(runs.variants):
            trained_on = runs.training_points(recipe, variant)
            thin = [point.queries for point in trained_on], [point.mean.mean for point in trained_on]
            series.append(Series(variant, runs.points(recipe, variant), look, [thin] if x == "queries" else []))
        level = series[0].points[0] if x == "iteration" else None
        panels.append(Panel(panel_title(recipe), runs.label(recipe), series, x, level))
    intervals = (
        f"Points: mean over {count(len(runs.seeds), 'seed')} of the fixed samples' reward, a little apart to be told "
        "from each other; bars: 95 % interval (Student)."
    )
    return _draw([panels], f"{intervals}{note}")


def overoptimisation(folder: Path) -> Figure:
    """Draw a column a reward: the trained reward, and below it what it should not cost. Paper Figure 7."""
    runs = Runs(folder)
    variant = runs.variants[0]
    costs = {key: words for key, words in results.COSTS.items() if any(row.get(key) for row in runs.rows)}
    panels: list[list[Panel]] = [[] for _ in range(1 + len(costs))]
    for recipe in runs.recipes:
        parts = results.parting(runs, recipe, variant)
        trained = [Series("trained reward", runs.points(recipe, variant), 0)]
        panels[0].append(Panel(panel_title(recipe), runs.label(recipe), trained, parting=parts))
        for look, (row, (measure, words)) in enumerate(zip(panels[1:], costs.items(), strict=True), 1):
            points = runs.points(recipe, variant, measure)
            level = points[0] if points else None
            row.append(Panel("", words, [Series(words, points, look)], level=level, parting=parts))
    return _draw(
        panels,
        f"Points: mean over {count(len(runs.seeds), 'seed')} of the fixed samples; bars: 95 % interval (Student). "
        "Diversity: pixel difference of two samples.\nDivergence: of a trajectory from the base model. Dotted: where "
        "recognition, with the trained reward above the base model's, is clearly below it from then on.",
    )


def prompts(folder: Path) -> Figure:
    """Draw a panel a prompt source: every prompt's reward, faint, and their mean, thick. Paper Figure 4."""
    runs, panels = Runs(folder), []
    for look, rows in enumerate(grouped(read_rows(folder / "prompts.csv"), "variant")):
        variant, label = rows[0]["variant"], rows[0]["label"]
        faint = []
        for of_prompt in grouped(rows, "prompt"):
            moments = grouped(of_prompt, "queries")
            means = [float(np.mean([float(row["reward_mean"]) for row in of_seeds])) for of_seeds in moments]
            faint.append(([int(of_seeds[0]["queries"]) for of_seeds in moments], means))
        series = Series(variant, runs.points(runs.recipes[0], variant), look, faint)
        panels.append(Panel(variant, "" if look else label, [series]))
    return _draw(
        [panels],
        f"Thick: mean over all prompts and {count(len(runs.seeds), 'seed')}; bars: 95 % interval over seeds. "
        "Faint: single prompts, mean over seeds.",
        sharey=True,
    )


def generalisation(folder: Path) -> Figure:
    """Draw a row a recipe and variant: the change of each reward on each prompt set, with intervals and every seed."""
    from matplotlib.figure import Figure

    table = read_rows(folder / "evaluation.csv")
    kinds = [results.changes(rows) for rows in grouped(table, "recipe", "variant")]
    parts = [[[each for each in kind if each.row["is_trained_reward"] == flag] for flag in "10"] for kind in kinds]
    columns = 2 if any(others for _, others in parts) else 1
    height = len(kinds) * (1.35 + 0.45 * max(len(trained) for trained, _ in parts)) + 0.5
    figure = Figure(figsize=(5.4 * columns, height), layout="constrained")
    panels = figure.subplots(len(kinds), columns, squeeze=False)
    for axes, part in zip(panels, parts, strict=True):
        for look, (panel, found) in enumerate(zip(axes, part, strict=False)):
            _draw_changes(panel, found, f"C{look}")
        axes[0].set_title(f"trained on {results.kind_title(table, part[0][0].row)}")
    seeds = count(max(len(change.by_seed) for kind in kinds for change in kind), "seed")
    minus = "Trained minus base model at the same prompts and seeds."
    _note(figure, f"{minus} Bars: 95 % interval over prompts (bootstrap); small circles: each of {seeds} trained.")
    return figure


def _draw(panels: Sequence[Sequence[Panel]], note: str, **sharing: Any) -> Figure:
    """Draw panels row by row, one legend where a panel has several lines, and small words below."""
    from matplotlib.figure import Figure

    rows, columns = len(panels), len(panels[0])
    size = min(11.5, max(6.4, 1.2 + 3.45 * columns)), 4.2 if rows == 1 else 0.5 + 2.1 * rows
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex="col", **sharing)
    for axes, panel in zip(grid.flat, chain(*panels), strict=True):
        _draw_panel(axes, panel)
    for axes in grid[-1]:
        axes.set_xlabel("reward queries" if panels[0][0].x == "queries" else "rounds of sampling and training")
    figure.align_ylabels(grid)
    lines = panels[0][0].series
    if len(lines) > 1:
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=len(lines))
    _note(figure, note)
    return figure


def _draw_panel(axes: Axes, panel: Panel) -> None:
    from matplotlib.ticker import MaxNLocator

    for place, line in enumerate(panel.series):
        means, color = [point.mean for point in line.points], f"C{line.look}"
        x_N = np.array([float(getattr(point, panel.x)) for point in line.points])
        x_N[1:] += (place - (len(panel.series) - 1) / 2) * _APART * x_N.max(initial=0.0)  # all start as one
        reach = [[mean.mean - mean.low for mean in means], [mean.high - mean.mean for mean in means]]
        look: dict[str, Any] = {"color": color, "marker": _MARKERS[line.look % len(_MARKERS)], "label": line.name}
        axes.errorbar(x_N, [mean.mean for mean in means], yerr=reach, elinewidth=1.2, **look)
        for x, y in line.faint:
            axes.plot(x, y, color=color, alpha=0.28, linewidth=0.9)
    if panel.level is not None:
        level = panel.level.mean.mean
        axes.axhline(level, color=FAINT, linewidth=1.0, linestyle="--", zorder=1)
        over_the_width = axes.get_yaxis_transform()
        axes.text(1, level, "base model", transform=over_the_width, ha="right", va="bottom", fontsize=8.5, color=FAINT)
    if panel.parting is not None:
        axes.axvline(panel.parting, linewidth=1.2, linestyle=":", color="black", zorder=1)
    axes.set_title(panel.title)
    axes.set_ylabel(panel.y_label)
    axes.margins(x=0.04, y=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")


def _draw_changes(axes: Axes, found: Sequence[Change], color: str) -> None:
    """Draw one point with its interval for each prompt set, from top to bottom."""
    if not found:
        axes.set_axis_off()
        return
    for place, change in enumerate(found):
        mean = change.mean
        reach = [[mean.mean - mean.low], [mean.high - mean.mean]]
        axes.errorbar(mean.mean, place, xerr=reach, color=color, marker="o", markersize=8, elinewidth=2.2, capsize=4)
        seeds_at = [place + 0.24] * len(change.by_seed)
        axes.plot(change.by_seed, seeds_at, "o", markersize=4.5, markerfacecolor="white", markeredgecolor=color)
    axes.axvline(0, color=FAINT, linewidth=1.2, zorder=1)
    axes.set_yticks(range(len(found)), [f"{each.row['prompt_set']}\n({each.mean.number} prompts)" for each in found])
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.set_xlabel(f"change of {found[0].row['label']}")
    axes.locator_params(axis="x", nbins=6)
    axes.grid(axis="y", visible=False)


def _note(figure: Figure, text: str) -> None:
    """Write small words below the panels, in lines that fit the figure."""
    characters = int(figure.get_figwidth() / 0.076)
    lines = [line for paragraph in text.splitlines() for line in textwrap.wrap(paragraph, characters)]
    figure.supxlabel("\n".join(lines), fontsize=8.5, color=FAINT, x=0.005, ha="left")
