"""The page of a results folder, README.md: its tables, put into `page.md.j2`. Never imports torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, StrictUndefined

from ddpo.experiments.definition import OF_PICTURES, Experiment, sides
from ddpo.experiments.results import COSTS, Point, Runs, changes, kind_title, panel_title, read_rows
from ddpo.report.intervals import Mean
from ddpo.report.wording import count, duration, number, with_interval


class Table(NamedTuple):
    """A table of a page; cells are Markdown."""

    words: str
    """What stands above it."""
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


def page(experiment: Experiment, folder: Path) -> str:
    """Return the page of a results folder in Markdown; raises ExperimentError when the folder lacks a table."""
    engine = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    engine.filters.update(count=count, duration=duration)
    template = (resources.files("ddpo.experiments") / "page.md.j2").read_text(encoding="utf-8")
    return engine.from_string(template).render(
        experiment=experiment,
        about={"notes": []} | json.loads((folder / "about.json").read_text(encoding="utf-8")),
        of_pictures=experiment.figure in OF_PICTURES,
        tables=_tables(experiment, folder),
        files=sorted(file.name for file in folder.iterdir()),
    )


def _tables(experiment: Experiment, folder: Path) -> list[Table]:
    """Return the tables of a page: what the runs earned, and what its figure shows besides."""
    if experiment.figure in OF_PICTURES:
        return []
    runs = Runs(folder)
    tables = [_rewards(experiment, runs)]
    if experiment.claims:
        tables.append(_differences(experiment, runs))
    if experiment.figure == "generalisation":
        tables.append(_generalisation(folder))
    return tables


def _rewards(experiment: Experiment, runs: Runs) -> Table:
    """Return the trained reward at the end, or after every round, with the other measures of overoptimisation."""
    costs = COSTS if experiment.figure == "overoptimisation" else {}
    rows = []
    for recipe in runs.recipes:
        for variant in runs.variants:
            for measure, words in {"evaluation_mean": runs.label(recipe), **costs}.items():
                base, *later = runs.points(recipe, variant, measure) or [Point(0, 0)]
                for point in later if experiment.figure == "rounds" else later[-1:]:
                    change = with_interval(point.minus(base), sign=True)
                    means = number(base.mean.mean), with_interval(point.mean), change
                    rows.append([panel_title(recipe), variant, words, f"{point.queries:,}", *means])
    return Table(
        "Means over seeds of the fixed samples, the same prompts and seeds before and after training. Brackets are "
        "95 % intervals (Student's, over seeds); changes are paired by seed.",
        ["recipe", "variant", "measured", "reward queries", "base model", "trained", "change"],
        rows,
    )


def _differences(experiment: Experiment, runs: Runs) -> Table:
    """Return the difference of the trained reward for each claim, at the end or after every round."""
    rows = []
    for recipe in runs.recipes:
        for claim in experiment.claims:
            left, right = (runs.points(recipe, variant) for variant in sides(claim))
            if not (left and right):
                rows.append([panel_title(recipe), claim, "", "not both were run", ""])
                continue
            pairs = [(one, other) for one in left for other in right if one.iteration == other.iteration][1:]
            for one, other in pairs if experiment.figure == "rounds" else [(left[-1], right[-1])]:
                difference = one.minus(other)
                words = [f"{one.queries:,}", with_interval(difference, sign=True), _clearly(difference)]
                rows.append([panel_title(recipe), claim, *words])
    headings = ["recipe", "claim", "reward queries", "left minus right", "left is"]
    return Table("Differences of the trained reward, paired by seed, for each order that is claimed.", headings, rows)


def _clearly(difference: Mean) -> str:
    """Say on which side of 0 the interval of a difference lies."""
    if difference.number == 1:
        return "one seed, no interval"
    if difference.rose:
        return "above"
    return "below" if difference.fell else "not clearly different"


def _generalisation(folder: Path) -> Table:
    table = read_rows(folder / "evaluation.csv")
    rows = []
    for each in changes(table):
        where = each.row["label"], each.row["prompt_set"], str(each.mean.number)
        means = number(each.base, 3), number(each.trained, 3), with_interval(each.mean, sign=True)
        by_seed = " ".join(number(value, 3, sign=True) for value in each.by_seed)
        rows.append([kind_title(table, each.row), *where, *means, by_seed])
    return Table(
        "Trained minus base model at the same prompts and seeds, averaged over training seeds. The interval is a "
        "bootstrap over prompts and does not cover the training seeds, which stand in the last column.",
        ["trained on", "measured", "prompts", "number", "base model", "trained", "change", "by seed"],
        rows,
    )
