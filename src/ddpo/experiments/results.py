"""Reading the CSV files of a results folder, and the means and paired differences that figures and pages state.

Never imports torch.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddpo.report.intervals import Mean, over_seeds
from ddpo.runtime.errors import ExperimentError

TextRow = dict[str, str]


def read_rows(path: Path) -> list[TextRow]:
    """Return the rows of a CSV file.

    Raises:
        ExperimentError: there is no such file, or it has no rows.
    """
    if not path.is_file():
        raise ExperimentError(f"{path.parent} has no {path.name}: it is not a folder of results of this experiment.")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ExperimentError(f"{path} has no rows.")
    return rows


def distinct(values: Iterable[str]) -> list[str]:
    """Return the values without repetition, in order of appearance."""
    return list(dict.fromkeys(values))


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
        """Return the mean difference to another point, paired by seed, with Student's interval.

        Raises ValueError when they have no seed in common.
        """
        return over_seeds(
            [value - other.by_seed[seed] for seed, value in self.by_seed.items() if seed in other.by_seed]
        )


@dataclass(frozen=True)
class Runs:
    """The rows of runs.csv."""

    rows: list[TextRow]

    @classmethod
    def read(cls, folder: Path) -> Runs:
        """Read runs.csv.

        Raises:
            ExperimentError: it is missing or empty.
        """
        return cls(read_rows(folder / "runs.csv"))

    @property
    def recipes(self) -> list[str]:
        """Recipes in the order of the experiment."""
        return distinct(row["recipe"] for row in self.rows)

    @property
    def variants(self) -> list[str]:
        """Variants in the order of the experiment."""
        return distinct(row["variant"] for row in self.rows)

    @property
    def seeds(self) -> list[int]:
        """Seeds in order."""
        return sorted({int(row["seed"]) for row in self.rows})

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
        """Return the mean reward of each iteration's own samples at the queries before it.

        They are drawn before the iteration's update, from the policy that stands at the row before of the same run.
        """
        before: dict[tuple[str, int], int] = {}
        previous: dict[str, int] = {}
        for row in sorted(self.rows, key=lambda row: int(row["iteration"])):
            if (row["recipe"], row["variant"]) == (recipe, variant):
                before[row["seed"], int(row["iteration"])] = previous.get(row["seed"], 0)
                previous[row["seed"]] = int(row["queries"])
        return [
            Point(point.iteration, before[str(next(iter(point.by_seed))), point.iteration], point.by_seed)
            for point in self.points(recipe, variant, "reward_mean")
        ]


@dataclass(frozen=True)
class About:
    """How results came about: about.json."""

    values: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> About:
        """Read about.json.

        Raises:
            ExperimentError: it is missing.
        """
        path = folder / "about.json"
        if not path.is_file():
            raise ExperimentError(f"{folder} has no {path.name}: it is not a folder of results.")
        return cls(json.loads(path.read_text(encoding="utf-8")))

    @property
    def budget(self) -> float:
        """Factor on the reward queries of the experiment's file."""
        return float(self.values["budget"])

    @property
    def made_with(self) -> Sequence[Mapping[str, Any]]:
        """Versions and machines with the number of steps and the seconds each accounts for."""
        return list(self.values["made_with"])
