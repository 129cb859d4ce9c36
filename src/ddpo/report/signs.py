"""What to be careful about, in words and numbers: signs of overoptimisation and of a training that does not learn.

A sign is a reason to look, never a verdict. What was looked at without finding one is said as well, and so is what
could not be looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ddpo.report.fixed_samples import Change, mirrors, other_changes, trained_change
from ddpo.report.record import RunRecord, finite
from ddpo.report.wording import alike, number, power_of_ten, share, signed_share, split_unit, with_error

DIVERSITY_FALL = 0.2
"""Fall of the diversity of the fixed samples, as a share of what it was, from which it is a sign."""
FAR_FROM_BASE = 20.0
"""Nats per trajectory from which the divergence is a sign."""
SATURATED_CLIP = 0.8
"""Clip fraction from which it is a sign."""
NEAR_TOLERANCE = 0.5
"""Share of the tolerated ratio error from which it is a sign."""
SPREAD_LEFT = 0.05
"""Share of the first iteration's spread of the rewards under which it is a sign."""
FEW_EFFECTIVE = 0.02
"""Share of the samples under which the effective ones are a sign."""
SKIPPED_UPDATES = 0.1
"""Share of updates left out from which it is a sign."""
DRIFT = 2.0
"""Growth of the divergence of a step, last third over first third, that is a sign when the reward is flat."""
_RECENT = 0.1
"""Share of the iterations, the last ones, that "of late" means; one at least."""


@dataclass(frozen=True)
class Finding:
    """The outcome of one look."""

    level: Literal["sign", "clear", "unknown"]
    subject: str
    """What was looked at."""
    text: str
    """One or two sentences with numbers; why it could not be looked at where that is unknown."""


def findings(run: RunRecord) -> list[Finding]:
    """Return what every look found, signs first."""
    looks: tuple[Callable[[RunRecord], list[Finding]], ...] = (
        _reward,
        _other_rewards,
        _diversity,
        _divergence,
        _spread,
        _clip,
        _ratio,
        _drift,
        _effective_samples,
        _skipped,
    )
    found = [finding for look in looks for finding in look(run)]
    order = {"sign": 0, "clear": 1, "unknown": 2}
    return sorted(found, key=lambda finding: order[finding.level])


def _reward(run: RunRecord) -> list[Finding]:
    subject = "Reward of the fixed samples"
    changed = trained_change(run)
    if changed is None:
        return [Finding("unknown", subject, "it was not measured before and after training")]
    if changed.difference.number == 1:
        return [Finding("unknown", subject, "a single fixed sample has no standard error")]
    if changed.rose:
        return [Finding("clear", subject, f"changed by {_difference(run, changed)}")]
    if changed.fell:
        return [
            Finding(
                "sign", "The reward fell", f"On the same prompts and seeds it changed by {_difference(run, changed)}."
            )
        ]
    text = (
        f"On the same prompts and seeds the reward changed by {_difference(run, changed)}, and the 95 % interval of "
        "the difference includes 0: no clear improvement."
    )
    return [Finding("sign", "Flat reward", text)]


def _other_rewards(run: RunRecord) -> list[Finding]:
    subject = "Other rewards on the fixed samples"
    changes = other_changes(run)
    genuine = [changed for changed in changes if not mirrors(run, changed.reward)]
    turned = [changed for changed in changes if changed not in genuine]
    found = [
        Finding(
            "clear",
            run.label(changed.reward),
            "is the trained reward with the opposite sign, so its fall says nothing new",
        )
        for changed in turned
    ]
    if not genuine:
        return [*found, Finding("unknown", subject, "none was measured besides the trained one")]
    for changed in genuine:
        before, after = alike(changed.before, changed.after)
        numbers = f"from {before} to {after} ({_difference(run, changed)})"
        if changed.fell:
            text = (
                f"{_context(run)} {_name(run, changed.reward)} fell {numbers}. A trained reward that rises while "
                "another measure of the same pictures falls is what overoptimisation looks like; the pictures below "
                "show what was given up."
            )
            found.append(Finding("sign", f"{_name(run, changed.reward)} fell", text))
        else:
            what = "rose" if changed.rose else "did not clearly change,"
            found.append(Finding("clear", _name(run, changed.reward), f"{what} {numbers}"))
    return found


def _diversity(run: RunRecord) -> list[Finding]:
    subject = "Diversity of the fixed samples"
    measured = [value for evaluation in run.evaluations if (value := evaluation.diversity) is not None]
    if len(measured) < 2 or measured[0] <= 0:
        return [Finding("unknown", subject, "it was not measured before and after training")]
    before, after = alike(measured[0], measured[-1])
    change = (measured[-1] - measured[0]) / measured[0]
    numbers = f"from {before} to {after} ({signed_share(change)})"
    if change > -DIVERSITY_FALL:
        return [Finding("clear", subject, f"went {numbers}")]
    text = (
        f"{_context(run)} the mean pixel difference of two fixed samples fell {numbers}: the samples became more "
        "alike. Some rewards ask for that (plain pictures are small pictures); otherwise it is a sign of collapse."
    )
    return [Finding("sign", "Samples become alike", text)]


def _divergence(run: RunRecord) -> list[Finding]:
    subject = "Divergence from the base model"
    measured = [value for evaluation in run.evaluations if (value := evaluation.kl_to_base) is not None]
    if not measured:
        return [Finding("unknown", subject, "it was not measured (evaluation.kl_to_base)")]
    if measured[-1] < FAR_FROM_BASE:
        return [Finding("clear", subject, f"{number(measured[-1], 3)} nats a trajectory at the end")]
    # The best of n samples diverges by log n - (n - 1) / n nats, so d nats are the best of about exp(d + 1).
    exponent = math.floor((measured[-1] + 1) / math.log(10))
    text = (
        f"{_context(run)} a trajectory's divergence from the base model reached {number(measured[-1], 3)} nats. To "
        f"move as far by choosing among the base model's own samples one would take the best of about "
        f"{power_of_ten(exponent)}. No number of nats is wrong in itself, but far from the base model a reward is "
        "worth doubting."
    )
    return [Finding("sign", "Far from the base model", text)]


def _spread(run: RunRecord) -> list[Finding]:
    subject = "Spread of the rewards"
    spread = run.series("reward/std")[1]
    if not spread:
        return [Finding("unknown", subject, "reward/std was not logged")]
    first, late = spread[0], _late(spread)
    if late <= SPREAD_LEFT * first:
        text = (
            f"The standard deviation of an iteration's rewards is {number(late, 3)} of late, from {number(first, 3)} "
            "in the first iteration. Samples that all score alike give advantages of noise: there is little left to "
            "learn from."
        )
        return [Finding("sign", "The rewards hardly differ", text)]
    return [Finding("clear", subject, f"standard deviation {number(late, 3)} of late, {number(first, 3)} at first")]


def _clip(run: RunRecord) -> list[Finding]:
    subject = "Clip fraction"
    if not (clipped := run.series("clip_fraction")[1]):
        return []  # the algorithm clips nothing
    late = _late(clipped)
    if late <= SATURATED_CLIP:
        return [Finding("clear", subject, f"{share(late)} of the pairs of late")]
    text = (
        f"Of late {share(late)} of the (sample, step) pairs lie outside the clip range when they are trained on, so "
        "most pairs give no gradient. A lower learning rate or a wider clip would use them."
    )
    return [Finding("sign", "Updates hit the clip", text)]


def _ratio(run: RunRecord) -> list[Finding]:
    subject = "Error of the importance ratio"
    if not (errors := run.series("ratio/max_error_at_start")[1]):
        return []  # the algorithm has no ratio
    worst, tolerance = max(errors), _tolerance(run)
    if tolerance is None:
        return [
            Finding("clear", subject, f"at most {number(worst, 2)}; the run itself stops above a tenth of the clip")
        ]
    numbers = f"at most {number(worst, 2)}, tolerated are {number(tolerance, 2)}"
    if worst <= NEAR_TOLERANCE * tolerance:
        return [Finding("clear", subject, numbers)]
    text = (
        f"Replaying the rollout before the first update gives ratios that are off by {numbers}. The rest of the clip "
        "is partly spent on rounding; precision=fp32 is exact."
    )
    return [Finding("sign", "The replay is barely exact enough", text)]


def _drift(run: RunRecord) -> list[Finding]:
    subject = "Drift without learning"
    changed, steps = trained_change(run), run.series("kl/step")[1]
    if changed is None or len(steps) < 3 or changed.rose:
        return []
    third = len(steps) // 3
    first, last = _mean(steps[:third]), _mean(steps[-third:])
    if last <= DRIFT * first:
        return [Finding("clear", subject, "the divergence of a step does not grow")]
    text = (
        f"The divergence of a step grew from {number(first, 2)} to {number(last, 2)} nats (first and last third of "
        "the iterations) without a clear rise of the reward: the policy moves without learning."
    )
    return [Finding("sign", subject, text)]


def _effective_samples(run: RunRecord) -> list[Finding]:
    subject = "Effective samples"
    if not (effective := run.series("weight/effective_samples")[1]):
        return []  # the algorithm has no weights
    late, drawn = _late(effective), finite(run.config.get("samples_per_iteration"))
    if drawn is None or late > FEW_EFFECTIVE * drawn:
        return [Finding("clear", subject, f"{number(late, 3)} of late")]
    text = (
        f"The weights of an iteration are worth {number(late, 3)} equally weighted samples of the {drawn:,.0f} drawn: "
        f"few samples decide everything. {_spreading(run)}"
    )
    return [Finding("sign", "Few samples carry the weight", text)]


def _spreading(run: RunRecord) -> str:
    """Say which setting of the algorithm gives more samples a weight."""
    algorithm = run.config.get("algorithm")
    if isinstance(algorithm, dict) and "percentile" in algorithm:
        return "A smaller algorithm.percentile keeps more samples."
    return "A smaller algorithm.beta spreads the weights."


def _skipped(run: RunRecord) -> list[Finding]:
    skipped, updates = run.series("updates_skipped")[1], _updates(run)
    if not skipped or not updates:
        return []
    part = sum(skipped) / (updates * len(skipped))
    if part < SKIPPED_UPDATES:
        return [Finding("clear", "Updates left out", f"{sum(skipped):,.0f}")]
    text = (
        f"{share(part)} of the updates were left out because the scaled gradient overflowed in half precision. "
        "precision=bf16 or fp32 does not overflow."
    )
    return [Finding("sign", "Updates are left out", text)]


def _updates(run: RunRecord) -> float | None:
    """Return the updates of an iteration by the configuration."""
    updates, epochs = finite(run.config.get("updates_per_iteration")), finite(run.config.get("inner_epochs", 1))
    return None if updates is None or epochs is None else updates * epochs


def _tolerance(run: RunRecord) -> float | None:
    """Return the tolerated ratio error, a tenth of the clip, where the configuration gives the clip of the ratio."""
    algorithm = run.config.get("algorithm")
    clip = finite(algorithm.get("clip_range")) if isinstance(algorithm, dict) else None
    return None if clip is None else clip / 10


def _context(run: RunRecord) -> str:
    """Return the beginning of a sentence: what the trained reward did meanwhile."""
    changed = trained_change(run)
    if changed is None:
        return "Meanwhile"
    if changed.rose:
        return "While the trained reward rose,"
    return "Although the trained reward did not clearly rise,"


def _name(run: RunRecord, reward: str) -> str:
    return split_unit(run.label(reward))[0]


def _difference(run: RunRecord, changed: Change) -> str:
    unit = split_unit(run.label(changed.reward))[1]
    return f"{with_error(changed.difference.mean, changed.difference.error, sign=True)} {unit}".rstrip()


def _late(values: list[float]) -> float:
    return _mean(values[-max(1, round(_RECENT * len(values))) :])


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
