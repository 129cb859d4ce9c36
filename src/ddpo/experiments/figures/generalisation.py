"""Generalisation: what training changed on prompt sets near and far from the trained one. Paper Figure 6."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ddpo.experiments.figures.curves import kind_title
from ddpo.experiments.figures.style import BLUE, FAINT, VERMILION, new_figure, note
from ddpo.experiments.generalisation import Change, changes
from ddpo.experiments.results import read_rows
from ddpo.report.wording import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def generalisation(folder: Path) -> Figure:
    """Draw a row a recipe and variant: the change of each reward on each prompt set, with intervals and every seed."""
    found = changes(read_rows(folder / "evaluation.csv"))
    titles = titles_of(found)
    trained = {kind: [c for c in found if c.kind == kind and c.is_trained_reward] for kind in titles}
    others = {kind: [c for c in found if c.kind == kind and not c.is_trained_reward] for kind in titles}
    columns = 2 if any(others.values()) else 1
    sets = max(len(part) for part in trained.values())
    figure = new_figure(len(titles) * (1.35 + 0.45 * sets) + 0.5, 5.4 * columns)
    panels = figure.subplots(len(titles), columns, squeeze=False)
    for row, (kind, title) in enumerate(titles.items()):
        _draw(panels[row, 0], trained[kind], BLUE)
        panels[row, 0].set_title(f"trained on {title}")
        if columns == 2:
            _draw(panels[row, 1], others[kind], VERMILION)
    seeds = max(len(change.by_seed) for change in found)
    note(
        figure,
        f"Trained minus base model at the same prompts and seeds. Bars: 95 % interval over prompts (bootstrap); "
        f"small circles: each of {count(seeds, 'seed')} trained.",
    )
    return figure


def titles_of(found: Sequence[Change]) -> dict[tuple[str, str], str]:
    """Return words for each recipe and variant, in order; the variant is named where there are several."""
    several = len({change.variant for change in found}) > 1
    return {change.kind: kind_title(change.recipe, change.variant if several else None) for change in found}


def _draw(axes: Axes, found: Sequence[Change], color: str) -> None:
    """Draw one point with its interval for each prompt set, from top to bottom."""
    if not found:
        axes.set_axis_off()
        return
    for place, change in enumerate(found):
        mean = change.mean
        axes.errorbar(
            mean.mean,
            place,
            xerr=[[mean.mean - mean.low], [mean.high - mean.mean]],
            color=color,
            marker="o",
            markersize=8,
            markeredgecolor="white",
            elinewidth=2.2,
            capsize=4,
            zorder=3,
        )
        axes.plot(
            list(change.by_seed.values()),
            [place + 0.24] * len(change.by_seed),
            linestyle="none",
            marker="o",
            markersize=4.5,
            markerfacecolor="white",
            markeredgecolor=color,
        )
    axes.axvline(0, color=FAINT, linewidth=1.2, zorder=1)
    axes.set_yticks(range(len(found)), [f"{change.prompt_set}\n({change.prompts} prompts)" for change in found])
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.set_xlabel(f"change of {found[0].label}")
    axes.grid(axis="y", visible=False)
