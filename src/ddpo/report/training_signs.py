"""Signs in the metrics of the iterations: a training that cannot learn, or loses what it has learned."""

from __future__ import annotations

import math
from statistics import fmean

from ddpo.report.findings import (
    ENOUGH_ITERATIONS,
    Finding,
    clear,
    late,
    mean_error,
    reward_with_errors,
    section,
    sign,
    unknown,
)
from ddpo.report.wording import count, number, share
from ddpo.runs.record import RunRecord, finite

NO_SPREAD = 1e-6
"""Standard deviation of the rewards, relative to their mean where that is above 1, that is none: what is added to it
when advantages are normalised is as large, and rounding to float32 is not far below."""
SATURATED_CLIP = 0.5
"""Share of the pairs that can lie outside the clip from which it is a sign: most of them give no gradient then."""
NEAR_TOLERANCE = 0.5
"""Share of the tolerated ratio error from which it is a sign."""
COLLAPSE = 0.5
"""Share of what the reward had gained at its best that must be lost again to be a sign."""
COLLAPSE_ERRORS = 3.0
"""Standard errors by which the reward must have risen and fallen again: the best of many moments is high by chance."""
LEFT_OUT = 0.1
"""Share of the updates left out from which it is a sign."""


def length(run: RunRecord) -> list[Finding]:
    """Look whether there are iterations enough to speak of a trend."""
    done = len(run.metrics)
    if done >= ENOUGH_ITERATIONS:
        return []
    text = f"{count(done, 'iteration')}: too few to tell a trend from noise, {ENOUGH_ITERATIONS} at least"
    return [unknown("Trend over the iterations", text)]


def spread(run: RunRecord) -> list[Finding]:
    """Look whether the samples are scored differently at all."""
    subject, key = "Spread of the rewards", "reward/std"
    if not (spreads := run.series(key)[1]):
        return [unknown(subject, "reward/std was not logged")]
    recent, means = late(spreads), run.series("reward/mean")[1]
    if recent > NO_SPREAD * max(1.0, abs(late(means)) if means else 1.0):
        return [
            clear(subject, f"standard deviation {number(recent, 3)} of late, {number(spreads[0], 3)} at first", key)
        ]
    text = (
        f"All samples score the same: the standard deviation of an iteration's rewards is {number(recent, 3)} of "
        "late. Every advantage is 0, and there is nothing to learn from."
    )
    advice = "Look at what the reward gives to different pictures with `ddpo reward score`."
    return [sign("The rewards do not differ", text, key, advice=advice, grave=True)]


def clip(run: RunRecord) -> list[Finding]:
    """Look how many pairs the clip leaves without a gradient."""
    key = "clip_fraction"
    if not (clipped := run.series(key)[1]):
        return []  # the algorithm clips nothing
    # the first update of an iteration finds every ratio at 1
    possible = 1 - 1 / made if (made := _updates(run)) and made > 1 else 1.0
    recent = late(clipped)
    if recent <= SATURATED_CLIP * possible:
        return [clear("Clip fraction", f"{share(recent)} of the pairs of late", key)]
    text = (
        f"Of late {share(recent)} of the (sample, step) pairs lie outside the clip range when they are trained on"
        f"{f', of {share(possible)} that can' if possible < 1 else ''}, so most of them give no gradient."
    )
    advice = "Lower learning_rate or updates_per_iteration, or widen the clip."
    return [sign("Updates hit the clip", text, key, advice=advice)]


def ratio(run: RunRecord) -> list[Finding]:
    """Look how much of the tolerated error of the importance ratio is used up."""
    subject, key = "Error of the importance ratio", "ratio/max_error_at_start"
    if not (errors := run.series(key)[1]):
        return []  # the algorithm has no ratio
    worst, tolerance = max(errors), _tolerance(run)
    told = "is a tenth of the clip" if tolerance is None else f"are {number(tolerance, 2)}"
    numbers = f"at most {number(worst, 2)}, tolerated {told}"
    if tolerance is None or worst <= NEAR_TOLERANCE * tolerance:
        return [clear(subject, numbers, key)]
    text = (
        f"Replaying the rollout before the first update gives ratios that are off by {numbers}. The rest of the clip "
        "is partly spent on rounding."
    )
    return [sign("The replay is barely exact enough", text, key, advice="precision=fp32 is exact.")]


def _tolerance(run: RunRecord) -> float | None:
    """Return the tolerated ratio error, a tenth of the clip, where the configuration gives the clip of the ratio."""
    algorithm = section(run, "algorithm")
    limit, nats = finite(algorithm.get("clip_range")), finite(algorithm.get("clip_nats"))
    if limit is None and nats is not None and run.dimensions:
        limit = nats / run.dimensions
    return None if limit is None else limit / 10


def collapse(run: RunRecord) -> list[Finding]:
    """Look whether the reward was higher before: compares the best stretch of iterations with the first and last."""
    key = "reward/mean"
    means, errors = reward_with_errors(run)
    if len(means) < ENOUGH_ITERATIONS:
        return []
    width = max(2, len(means) // 6)
    stretches = [slice(first, first + width) for first in range(0, len(means) - width + 1, width // 2)]
    stretches.append(slice(len(means) - width, None))
    levels = [fmean(means[stretch]) for stretch in stretches]
    error = [mean_error(errors[stretch]) for stretch in stretches]
    best = max(range(len(levels)), key=levels.__getitem__)
    gained, lost = levels[best] - levels[0], levels[best] - levels[-1]
    chance = COLLAPSE_ERRORS * math.hypot(error[best], max(error[0], error[-1]))
    where = f"iterations {run.iterations[stretches[best]][0]} to {run.iterations[stretches[best]][-1]}"
    if min(gained, lost) <= chance or lost < COLLAPSE * gained:
        text = f"{number(levels[best])} in {where}, {number(levels[-1])} at the end"
        return [clear("Best reward of the run", text, key)]
    text = (
        f"The mean reward rose from {number(levels[0])} to {number(levels[best])} ({where}) and fell back to "
        f"{number(levels[-1])}, losing {share(lost / gained)} of the gain."
    )
    advice = "Lower learning_rate, and train no longer than to the best iterations."
    return [sign("The reward collapsed", text, key, advice=advice, grave=True)]


def left_out(run: RunRecord) -> list[Finding]:
    """Look how many updates changed no weight."""
    key, planned = "updates_skipped", _updates(run)
    missing = run.series(key)[1]
    if not missing or not planned:
        return []
    part = sum(missing) / (planned * len(missing))
    if part < LEFT_OUT:
        return [clear("Updates left out", f"{sum(missing):,.0f}", key)]
    text = f"{share(part)} of the updates changed no weight: their gradient overflowed in fp16, or was not finite."
    advice = "precision=bf16 or fp32 does not overflow; where that is set, lower learning_rate."
    return [sign("Updates are left out", text, key, advice=advice)]


def _updates(run: RunRecord) -> float | None:
    """Return the updates of an iteration by the configuration."""
    parts, epochs = finite(run.config.get("updates_per_iteration")), finite(run.config.get("inner_epochs", 1))
    return None if parts is None or epochs is None else parts * epochs
