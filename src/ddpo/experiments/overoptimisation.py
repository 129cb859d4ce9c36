"""Where a trained reward and the judge's recognition part, from runs.csv. Never imports torch. Paper E.2."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile

from ddpo.experiments.results import Point, Runs
from ddpo.report.intervals import Mean

PROXY = "evaluation_mean"
"""Column of the trained reward on the fixed samples."""
RECOGNITION = "evaluation_judge-recognition"
"""Column of what the trained reward should not cost."""


@dataclass(frozen=True)
class Parting:
    """The first evaluation from which on recognition is clearly below the base model's; the reward is above it there.

    "From which on": at every later evaluation too. A single one of many may be clear by chance.
    """

    queries: int
    recognition: Mean
    """Change against the base model, paired by seed."""
    reward: Mean
    """Change of the trained reward against the base model there."""
    reward_after: Mean | None
    """Change of the trained reward from there to the end; None: it is the end."""


@dataclass(frozen=True)
class Fall:
    """How often recognition is clearly below the base model's."""

    clear: int
    """Evaluations at which it is."""
    evaluations: int
    """All after the base model's."""
    lasts: bool
    """Whether it is so at the last one."""


def fall(runs: Runs, recipe: str, variant: str) -> Fall:
    """Return how often recognition, which was measured, is clearly below the base model's."""
    base, *later = runs.points(recipe, variant, RECOGNITION)
    fallen = [_is_below(point, base) for point in later]
    return Fall(sum(fallen), len(fallen), bool(fallen) and fallen[-1])


def _is_below(point: Point, base: Point) -> bool:
    change = point.minus(base)
    return change.is_clear and change.mean < 0


def parting(runs: Runs, recipe: str, variant: str) -> Parting | None:
    """Return where recognition parts from the trained reward; None if it never does or has too few seeds to tell.

    Clearly below: the 95 % interval of the differences, paired by seed, lies below 0.
    """
    reward = runs.points(recipe, variant, PROXY)
    recognition = runs.points(recipe, variant, RECOGNITION)
    if not recognition:
        return None
    reward_at = {point.iteration: point for point in reward}
    to_the_end = list(takewhile(lambda point: _is_below(point, recognition[0]), reversed(recognition[1:])))
    for point in reversed(to_the_end):
        here = reward_at[point.iteration]
        risen = here.minus(reward[0])
        if risen.mean > 0:
            after = reward[-1].minus(here) if here is not reward[-1] else None
            return Parting(point.queries, point.minus(recognition[0]), risen, after)
    return None
