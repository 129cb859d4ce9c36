"""Where a trained reward and the judge's recognition part, from runs.csv. Never imports torch. Paper E.2."""

from __future__ import annotations

from dataclasses import dataclass

from ddpo.experiments.results import Runs
from ddpo.intervals import Mean

PROXY = "evaluation_mean"
"""Column of the trained reward on the fixed samples."""
RECOGNITION = "evaluation_judge-recognition"
"""Column of what the trained reward should not cost."""


@dataclass(frozen=True)
class Parting:
    """The first evaluation at which recognition is clearly below the base model's while the reward is above it."""

    queries: int
    recognition: Mean
    """Change against the base model, paired by seed."""
    reward: Mean
    """Change of the trained reward against the base model there."""
    reward_after: Mean | None
    """Change of the trained reward from there to the end; None: it is the end."""


def parting(runs: Runs, recipe: str, variant: str) -> Parting | None:
    """Return where recognition parts from the trained reward; None if it never does or has too few seeds to tell.

    Clearly below: the 95 % interval of the differences, paired by seed, lies below 0.
    """
    reward = runs.points(recipe, variant, PROXY)
    recognition = runs.points(recipe, variant, RECOGNITION)
    if not recognition:
        return None
    reward_at = {point.iteration: point for point in reward}
    for point in recognition[1:]:
        here = reward_at[point.iteration]
        fallen, risen = point.minus(recognition[0]), here.minus(reward[0])
        if fallen.is_clear and fallen.mean < 0 < risen.mean:
            after = reward[-1].minus(here) if here is not reward[-1] else None
            return Parting(point.queries, fallen, risen, after)
    return None
