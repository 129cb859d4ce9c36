"""The CSV files of a results folder, and the means and paired differences that figures and pages state.

Never imports torch.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

import numpy as np

from ddpo.report.intervals import Mean, bootstrap, over_seeds
from ddpo.runtime.errors import ExperimentError

TextRow = dict[str, str]

RECOGNITION = "evaluation_judge-recognition"
COSTS = {
    RECOGNITION: "recognition (share)",
    "evaluation_diversity": "diversity",
    "evaluation_kl_to_base": "divergence (nats)",
}
"""What training for a reward should not cost: columns of runs.csv, and words for each."""


def read_rows(path: Path) -> list[TextRow]:
    """Return the rows of a CSV file; raises ExperimentError when there is no such file, or it has no rows."""
    if not path.is_file():
        raise ExperimentError(f"{path.parent} has no {path.name}: it is not a folder of results of this experiment.")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ExperimentError(f"{path} has no rows.")
    return rows


def grouped(rows: Sequence[TextRow], *columns: str) -> list[list[TextRow]]:
    """Return the rows that agree in the columns, groups in order of appearance."""
    groups: dict[tuple[str, ...], list[TextRow]] = {}
    for row in rows:
        groups.setdefault(tuple(row[column] for column in columns), []).append(row)
    return list(groups.values())


def kind_title(rows: Sequence[TextRow], row: TextRow) -> str:
    """Return what tells the runs of a row from the others in the table: their recipe, their variant or both."""
    names = {"recipe": panel_title(row["recipe"]), "variant": row["variant"]}
    several = [name for column, name in names.items() if len({each[column] for each in rows}) > 1]
    return ", ".join(several) or names["recipe"]


def panel_title(recipe: str) -> str:
    """Return a recipe's name without the model's."""
    return recipe.removeprefix("emoji-").replace("-", " ")


@dataclass
class Point:
    """One measure of the runs of one kind, after the same number of iterations."""

    iteration: int
    queries: int
    by_seed: dict[int, float] = field(default_factory=dict)
    """The value of each run, by its seed."""

    @property
    def mean(self) -> Mean:
        """The mean over seeds with Student's interval."""
        return over_seeds(list(self.by_seed.values()))

    def minus(self, other: Point) -> Mean:
        """Return the mean difference to another point, paired by seed, with Student's interval."""
        both = [seed for seed in self.by_seed if seed in other.by_seed]
        return over_seeds([self.by_seed[seed] - other.by_seed[seed] for seed in both])


class Runs:
    """The rows of runs.csv, with recipes, variants and seeds in the order of the experiment."""

    def __init__(self, folder: Path) -> None:
        """Read a folder of results; raises ExperimentError when the table is missing or empty."""
        self.rows = read_rows(folder / "runs.csv")
        self.recipes, self.variants, self.seeds = (
            list(dict.fromkeys(row[column] for row in self.rows)) for column in ("recipe", "variant", "seed")
        )

    def label(self, recipe: str) -> str:
        """Return words with the unit for the reward that a recipe trains."""
        return next(row["label"] for row in self.rows if row["recipe"] == recipe)

    def points(self, recipe: str, variant: str, measure: str = "evaluation_mean") -> list[Point]:
        """Return a measure of the runs of a recipe and variant, by iteration; empty if it was not measured."""
        points: dict[int, Point] = {}
        for row in self.rows:
            if (row["recipe"], row["variant"]) == (recipe, variant) and row.get(measure):
                iteration = int(row["iteration"])
                point = points.setdefault(iteration, Point(iteration, int(row["queries"])))
                point.by_seed[int(row["seed"])] = float(row[measure])
        return [points[iteration] for iteration in sorted(points)]

    def training_points(self, recipe: str, variant: str) -> list[Point]:
        """Return the mean reward of each iteration's own samples at the queries before it: it precedes the update."""
        kind = [row for row in self.rows if (row["recipe"], row["variant"]) == (recipe, variant)]
        queries = {int(row["iteration"]): int(row["queries"]) for row in kind}
        points = self.points(recipe, variant, "reward_mean")
        return [Point(point.iteration, queries.get(point.iteration - 1, 0), point.by_seed) for point in points]


def parting(runs: Runs, recipe: str, variant: str) -> int | None:
    """Return the reward queries at which recognition parts from the trained reward, None if it never does. Paper E.2.

    That is the first evaluation from which on recognition is clearly below the base model's (the 95 % interval of the
    differences, paired by seed, lies below 0) at every later one too, with the reward above its own start: a single
    evaluation of many may be clear by chance. With one seed there is no interval and so no parting.
    """
    base, *later = runs.points(recipe, variant, RECOGNITION) or [Point(0, 0)]
    below = list(takewhile(lambda point: point.minus(base).fell, reversed(later)))
    reward = {point.iteration: point for point in runs.points(recipe, variant)}
    risen = [point for point in below if reward[point.iteration].minus(reward[base.iteration]).mean > 0]
    return risen[-1].queries if risen else None


@dataclass(frozen=True)
class Change:
    """The change of one reward on one prompt set, trained minus base model at the same prompts and seeds."""

    row: TextRow
    """The first of its rows: recipe, variant, prompt set, reward, label and whether it is the trained reward."""
    base: float
    """Mean of the base model."""
    trained: float
    """Mean of the trained models."""
    mean: Mean
    """Mean change with the bootstrap interval over prompts, each prompt's change averaged over training seeds."""
    by_seed: list[float]
    """Mean change of each trained model."""


def changes(rows: Sequence[TextRow]) -> list[Change]:
    """Return the change for every recipe, variant, reward and prompt set in evaluation.csv, in order of appearance."""

    def mean(part: Sequence[TextRow], column: str) -> float:
        return float(np.mean([float(row[column]) for row in part]))

    def change(part: Sequence[TextRow]) -> float:
        return float(np.mean([float(row["trained"]) - float(row["base"]) for row in part]))

    found = []
    for part in grouped(rows, "recipe", "variant", "reward", "prompt_set"):
        over_prompts = bootstrap([change(each) for each in grouped(part, "prompt")])
        by_seed = [change(each) for each in grouped(part, "seed")]
        found.append(Change(part[0], mean(part, "base"), mean(part, "trained"), over_prompts, by_seed))
    return found
