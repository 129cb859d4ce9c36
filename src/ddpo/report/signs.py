"""What to be careful about, in words and numbers: signs of overoptimisation and of a training that does not learn.

A sign is a reason to look, never a verdict. What was looked at without finding one is said as well, and so is what
could not be looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, NamedTuple

from ddpo.report.curve import NORMAL_95
from ddpo.report.fixed_samples import Change, change, other_changes
from ddpo.report.intervals import Mean
from ddpo.report.wording import alike, count, number, share, split_unit, with_error
from ddpo.runs.record import RunRecord, finite

ENOUGH_ITERATIONS = 6
"""Iterations from which a trend is spoken of: the thirds that are compared then hold two values each, so that no
single iteration decides."""
RECENT = 0.1
"""Share of the iterations, the last ones, that "of late" means; one at least."""
DIVERSITY_FALL = 0.2
"""Fall of the diversity of the fixed samples, as a share of what it was, from which it is a sign."""
FAR_FROM_BASE = 20.0
"""Nats per trajectory from which the divergence is a sign."""
NO_SPREAD = 1e-6
"""Standard deviation of the rewards, relative to their mean where that is above 1, that is none: what is added to it
when advantages are normalised is as large, and rounding to float32 is not far below."""
SATURATED_CLIP = 0.5
"""Share of the pairs that can lie outside the clip from which it is a sign: most of them give no gradient then."""
NEAR_TOLERANCE = 0.5
"""Share of the tolerated ratio error from which it is a sign."""
NOISY = 0.5
"""Noise of the arithmetic in the importance ratio, as a share of the clip, from which it is a sign: it alone clips one
pair in twenty."""
COLLAPSE = 0.5
"""Share of what the reward had gained at its best that must be lost again to be a sign."""
COLLAPSE_ERRORS = 3.0
"""Standard errors by which the reward must have risen and fallen again: the best of many moments is high by chance."""
LEFT_OUT = 0.1
"""Share of the updates left out from which it is a sign."""


@dataclass(frozen=True)
class Finding:
    """The outcome of one look."""

    level: Literal["sign", "clear", "unknown"]
    subject: str
    """What was looked at."""
    text: str
    """One or two sentences with numbers; why it could not be looked at where that is unknown."""
    keys: tuple[str, ...] = ()
    """Metrics and settings it was seen in."""
    advice: str = ""
    """A sentence on what to change, where there is something."""
    grave: bool = False
    """Of a sign: nothing can be learned like this, or what was learned is being lost."""

    @property
    def severity(self) -> Literal["problem", "warning", "clear", "unknown"]:
        """The level in words for whoever is to act on it: a sign is a warning, a grave one a problem."""
        if self.level != "sign":
            return self.level
        return "problem" if self.grave else "warning"


def sign(subject: str, text: str, *keys: str, advice: str = "", grave: bool = False) -> Finding:
    """Return a reason to look, seen in the metrics `keys`."""
    return Finding("sign", subject, text, keys, advice, grave)


def clear(subject: str, text: str, *keys: str) -> Finding:
    """Return that a look found nothing."""
    return Finding("clear", subject, text, keys)


def unknown(subject: str, reason: str) -> Finding:
    """Return that something could not be looked at."""
    return Finding("unknown", subject, reason)


def findings(run: RunRecord) -> list[Finding]:
    """Return what every look found, signs first, the grave ones before the others."""
    looks = (
        *(_length, _reward, _collapse, _other_rewards, _diversity, _divergence),
        *(_spread, _clip, _ratio, _noise, _left_out),
    )
    return ordered([finding for look in looks for finding in look(run)])


def ordered(found: list[Finding]) -> list[Finding]:
    """Return findings in the order in which they are told."""
    order = {"sign": 0, "clear": 1, "unknown": 2}
    return sorted(found, key=lambda finding: (order[finding.level], not finding.grave))


def _length(run: RunRecord) -> Iterator[Finding]:
    """Look whether there are iterations enough to speak of a trend."""
    if (done := len(run.metrics)) < ENOUGH_ITERATIONS:
        text = f"{count(done, 'iteration')}: too few to tell a trend from noise, {ENOUGH_ITERATIONS} at least"
        yield unknown("Trend over the iterations", text)


def _reward(run: RunRecord) -> Iterator[Finding]:
    """Look what the trained reward did: on the fixed samples, else from the first to the last third of iterations."""
    subject, changed = "Reward of the fixed samples", change(run, run.trained_reward)
    if changed is not None and changed.difference.number > 1:
        key, moved = f"evaluation/{changed.reward}/mean", changed.difference
        numbers = f"on the same prompts and seeds it changed by {_difference(run, changed)}"
    elif (thirds := _reward_trend(run)) is not None:
        subject, key, moved = "Reward of the iterations", "reward/mean", thirds
        difference = with_error(thirds.mean, thirds.error, sign=True)
        numbers = f"from the first to the last third of the iterations it changed by {difference}"
    else:
        why = "it was not measured before and after training"
        yield unknown(subject, why if changed is None else "a single fixed sample has no standard error")
        return
    told = f"{numbers[0].upper()}{numbers[1:]}"
    if moved.rose:
        yield clear(subject, numbers, key)
    elif moved.fell:
        advice = "Lower learning_rate, and see with `ddpo reward score` that higher is better."
        yield sign("The reward fell", f"{told}.", key, advice=advice, grave=True)
    else:
        text = f"{told}, and the 95 % interval of the difference includes 0: no clear improvement."
        advice = "Change what the other signs name; without any, train on or draw more samples_per_iteration."
        yield sign("Flat reward", text, key, advice=advice)


def _collapse(run: RunRecord) -> Iterator[Finding]:
    """Look whether the reward was higher before: compares the best stretch of iterations with the first and last."""
    key, rewards = "reward/mean", _rewards(run)
    if len(rewards) < ENOUGH_ITERATIONS:
        return
    width = max(2, len(rewards) // 6)
    starts = [*range(0, len(rewards) - width + 1, width // 2), len(rewards) - width]
    stretches = [rewards[start : start + width] for start in starts]
    levels = [_mean_of(stretch) for stretch in stretches]
    (start, start_error), (end, end_error) = levels[0], levels[-1]
    (best, best_error), at_best = max(zip(levels, stretches, strict=True), key=lambda pair: pair[0][0])
    gained, lost = best - start, best - end
    chance = COLLAPSE_ERRORS * math.hypot(best_error, max(start_error, end_error))
    where = f"iterations {at_best[0].iteration} to {at_best[-1].iteration}"
    if min(gained, lost) <= chance or lost < COLLAPSE * gained:
        yield clear("Best reward of the run", f"{number(best)} in {where}, {number(end)} at the end", key)
        return
    text = (
        f"The mean reward rose from {number(start)} to {number(best)} ({where}) and fell back to {number(end)}, "
        f"losing {share(lost / gained)} of the gain."
    )
    advice = "Lower learning_rate, and train no longer than to the best iterations."
    yield sign("The reward collapsed", text, key, advice=advice, grave=True)


def _other_rewards(run: RunRecord) -> Iterator[Finding]:
    """Look what became of the rewards that were only measured."""
    changes = other_changes(run)
    if not changes:
        yield unknown("Other rewards on the fixed samples", "none was measured besides the trained one")
    for changed in changes:
        name, key = split_unit(run.label(changed.reward))[0], f"evaluation/{changed.reward}/mean"
        before, after = alike(changed.before, changed.after)
        numbers = f"from {before} to {after} ({_difference(run, changed)})"
        if not changed.difference.fell:
            what = "rose" if changed.difference.rose else "did not clearly change,"
            yield clear(name, f"{what} {numbers}", key)
            continue
        text = (
            f"On the same prompts and seeds {name} fell {numbers}. A trained reward that rises while another measure "
            "of the same samples falls is what overoptimisation looks like; the samples show what was given up."
        )
        yield sign(f"{name} fell", text, key, advice="Keep an earlier model, or train on a sum of both rewards.")


def _diversity(run: RunRecord) -> Iterator[Finding]:
    """Look whether the fixed samples became more alike."""
    subject = "Diversity of the fixed samples"
    measured = [value for evaluation in run.evaluations if (value := evaluation.diversity) is not None]
    if len(measured) < 2 or measured[0] <= 0:
        yield unknown(subject, "it was not measured before and after training")
        return
    before, after = alike(measured[0], measured[-1])
    part = (measured[-1] - measured[0]) / measured[0]
    numbers = f"from {before} to {after} ({share(part, sign=True)})"
    if part > -DIVERSITY_FALL:
        yield clear(subject, f"went {numbers}")
        return
    text = (
        f"The mean difference of two fixed samples fell {numbers}: the samples became more alike. "
        "Some rewards ask for that (plain pictures are small pictures); otherwise it is a sign of collapse."
    )
    yield sign("Samples become alike", text, "evaluation/diversity", advice="Stop earlier, or lower learning_rate.")


def _divergence(run: RunRecord) -> Iterator[Finding]:
    """Look how far the model went from the base model."""
    subject = "Divergence from the base model"
    measured = [value for evaluation in run.evaluations if (value := evaluation.kl_to_base) is not None]
    if not measured:
        yield unknown(subject, "it was not measured (evaluation.kl_to_base)")
        return
    nats = number(measured[-1], 3)
    if measured[-1] < FAR_FROM_BASE:
        yield clear(subject, f"{nats} nats a trajectory at the end")
        return
    # The best of n samples diverges by log n - (n - 1) / n nats, so d nats are the best of about exp(d + 1).
    text = (
        f"A trajectory's divergence from the base model reached {nats} nats: as far "
        f"as the best of about 10^{(measured[-1] + 1) / math.log(10):.0f} of the base model's own samples. No number "
        "of nats is wrong in itself, but far from the base model a reward is worth doubting."
    )
    advice = "Compare with an earlier evaluation, or stop earlier."
    yield sign("Far from the base model", text, "evaluation/kl_to_base", advice=advice)


def _spread(run: RunRecord) -> Iterator[Finding]:
    """Look whether the samples are scored differently at all."""
    subject, key = "Spread of the rewards", "reward/std"
    spreads, means = run.series(key)[1], run.series("reward/mean")[1]
    if not spreads:
        yield unknown(subject, "reward/std was not logged")
        return
    recent = _late(spreads)
    if recent > NO_SPREAD * max(1.0, abs(_late(means)) if means else 1.0):
        yield clear(subject, f"standard deviation {number(recent, 3)} of late, {number(spreads[0], 3)} at first", key)
        return
    text = (
        f"All samples score the same: the standard deviation of an iteration's rewards is {number(recent, 3)} of "
        "late. Every advantage is 0, and there is nothing to learn from."
    )
    advice = "Look at what the reward gives to different pictures with `ddpo reward score`."
    yield sign("The rewards do not differ", text, key, advice=advice, grave=True)


def _clip(run: RunRecord) -> Iterator[Finding]:
    """Look how many pairs the clip leaves without a gradient; not every algorithm clips."""
    key = "clip_fraction"
    clipped, made = run.series(key)[1], _updates(run)
    if not clipped:
        return
    # the first update of an iteration finds every ratio at 1
    possible = 1 - 1 / made if made and made > 1 else 1.0
    recent = _late(clipped)
    if recent <= SATURATED_CLIP * possible:
        yield clear("Clip fraction", f"{share(recent)} of the pairs of late", key)
        return
    text = (
        f"Of late {share(recent)} of the (sample, step) pairs lie outside the clip range when they are trained on"
        f"{f', of {share(possible)} that can' if possible < 1 else ''}, so most of them give no gradient."
    )
    advice = "Lower learning_rate or updates_per_iteration, or widen the clip."
    yield sign("Updates hit the clip", text, key, advice=advice)


def _ratio(run: RunRecord) -> Iterator[Finding]:
    """Look how much of the tolerated error of the importance ratio is used up; not every algorithm has one."""
    key = "ratio/max_error_at_start"
    errors, tolerance = run.series(key)[1], _tolerance(run)
    if not errors:
        return
    told = "is a tenth of the clip" if tolerance is None else f"are {number(tolerance, 2)}"
    numbers = f"at most {number(max(errors), 2)}, tolerated {told}"
    if tolerance is None or max(errors) <= NEAR_TOLERANCE * tolerance:
        yield clear("Error of the importance ratio", numbers, key)
        return
    text = (
        f"Replaying the rollout before the first update gives ratios that are off by {numbers}. The rest of the clip "
        "is partly spent on rounding."
    )
    yield sign("The replay is barely exact enough", text, key, advice="precision=fp32 is exact.")


def _noise(run: RunRecord) -> Iterator[Finding]:
    """Look how large the noise of the arithmetic in the importance ratio is beside the clip."""
    key = "ratio/noise_floor"
    measured, tolerance = run.series(key)[1], _tolerance(run)
    if not measured or tolerance is None:
        return
    part = measured[0] / (10 * tolerance)
    if part < NOISY:
        yield clear("Noise of the arithmetic", f"{share(part)} of the clip, a standard deviation", key)
        return
    text = f"Rounding moves the importance ratio by {share(part)} of the clip at random: the clip acts on noise."
    yield sign("The arithmetic is too coarse for the clip", text, key, advice="Use precision=fp32, or fp16 on a GPU.")


def _left_out(run: RunRecord) -> Iterator[Finding]:
    """Look how many updates changed no weight."""
    key, planned = "updates_skipped", _updates(run)
    missing = run.series(key)[1]
    if not missing or not planned:
        return
    part = sum(missing) / (planned * len(missing))
    if part < LEFT_OUT:
        yield clear("Updates left out", f"{sum(missing):,.0f}", key)
        return
    text = f"{share(part)} of the updates changed no weight: their gradient overflowed in fp16, or was not finite."
    advice = "precision=bf16 or fp32 does not overflow; where that is set, lower learning_rate."
    yield sign("Updates are left out", text, key, advice=advice)


def _difference(run: RunRecord, changed: Change) -> str:
    unit = split_unit(run.label(changed.reward))[1]
    return f"{with_error(changed.difference.mean, changed.difference.error, sign=True)} {unit}".rstrip()


def _reward_trend(run: RunRecord) -> Mean | None:
    """Return the mean reward of the last third of the iterations minus that of the first, with its 95 % interval.

    None with too few iterations, or without standard errors.
    """
    rewards = _rewards(run)
    if len(rewards) < ENOUGH_ITERATIONS:
        return None
    third = len(rewards) // 3
    (first, first_error), (last, last_error) = _mean_of(rewards[:third]), _mean_of(rewards[-third:])
    difference, error = last - first, math.hypot(first_error, last_error)
    reach = NORMAL_95 * error
    return Mean(difference, error, difference - reach, difference + reach, len(rewards))


class _Reward(NamedTuple):
    iteration: int
    mean: float
    error: float


def _rewards(run: RunRecord) -> list[_Reward]:
    """Return mean reward and its standard error of every iteration that has both."""
    rewards = []
    for iteration, row in zip(run.iterations, run.metrics, strict=True):
        mean, error = finite(row.get("reward/mean")), finite(row.get("reward/standard_error"))
        if mean is not None and error is not None:
            rewards.append(_Reward(iteration, mean, error))
    return rewards


def _mean_of(rewards: Sequence[_Reward]) -> tuple[float, float]:
    """Return the mean of independent values and its standard error."""
    return fmean(each.mean for each in rewards), math.hypot(*(each.error for each in rewards)) / len(rewards)


def _late(values: Sequence[float]) -> float:
    """Return the mean of the last values."""
    return fmean(values[-max(1, round(RECENT * len(values))) :])


def _tolerance(run: RunRecord) -> float | None:
    """Return the tolerated ratio error, a tenth of the clip, where the configuration gives the clip of the ratio."""
    algorithm = run.config.get("algorithm")
    if not isinstance(algorithm, dict):
        return None
    limit, nats = finite(algorithm.get("clip_range")), finite(algorithm.get("clip_nats"))
    if limit is None and nats is not None and run.dimensions:
        limit = nats / run.dimensions
    return None if limit is None else limit / 10


def _updates(run: RunRecord) -> float | None:
    """Return the updates of an iteration by the configuration."""
    parts, epochs = finite(run.config.get("updates_per_iteration")), finite(run.config.get("inner_epochs", 1))
    return None if parts is None or epochs is None else parts * epochs
