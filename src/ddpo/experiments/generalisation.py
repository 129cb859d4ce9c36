"""What training changed on each prompt set, from evaluation.csv. Never imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ddpo.experiments.results import TextRow
from ddpo.report.intervals import Mean, bootstrap


@dataclass(frozen=True)
class Change:
    """The change of one reward on one prompt set, trained minus base model at the same prompts and seeds."""

    recipe: str
    variant: str
    prompt_set: str
    reward: str
    label: str
    """Words with the unit for the reward."""
    is_trained_reward: bool
    base: float
    """Mean of the base model."""
    trained: float
    """Mean of the trained models."""
    mean: Mean
    """Mean change with the bootstrap interval over prompts, each prompt's change averaged over training seeds."""
    by_seed: dict[int, float]
    """Mean change of each trained model, by its training seed."""
    prompts: int
    """Prompts in the set."""

    @property
    def kind(self) -> tuple[str, str]:
        """Recipe and variant: which models were trained."""
        return self.recipe, self.variant


def changes(rows: Sequence[TextRow]) -> list[Change]:
    """Return the change for every recipe, variant, reward and prompt set, in order of appearance."""
    groups: dict[tuple[str, ...], list[TextRow]] = {}
    for row in rows:
        kind = row["recipe"], row["variant"], row["reward"], row["prompt_set"]
        groups.setdefault(kind, []).append(row)
    return [_change(group) for group in groups.values()]


def _change(rows: Sequence[TextRow]) -> Change:
    by_prompt: dict[str, list[float]] = {}
    by_seed: dict[int, list[float]] = {}
    for row in rows:
        difference = float(row["trained"]) - float(row["base"])
        by_prompt.setdefault(row["prompt"], []).append(difference)
        by_seed.setdefault(int(row["seed"]), []).append(difference)
    first = rows[0]
    return Change(
        recipe=first["recipe"],
        variant=first["variant"],
        prompt_set=first["prompt_set"],
        reward=first["reward"],
        label=first["label"],
        is_trained_reward=first["is_trained_reward"] == "1",
        base=float(np.mean([float(row["base"]) for row in rows])),
        trained=float(np.mean([float(row["trained"]) for row in rows])),
        mean=bootstrap([float(np.mean(differences)) for differences in by_prompt.values()]),
        by_seed={seed: float(np.mean(differences)) for seed, differences in by_seed.items()},
        prompts=len(by_prompt),
    )
