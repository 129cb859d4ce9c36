"""What to be careful about, in words and numbers: signs of overoptimisation and of a training that does not learn.

A sign is a reason to look, never a verdict. What was looked at without finding one is said as well, and so is what
could not be looked at. Here are the looks at the fixed samples; those at the iterations are in `training_signs`.
"""

from __future__ import annotations

import math

from ddpo.report import training_signs as training
from ddpo.report.findings import Finding, clear, reward_trend, sign, unknown
from ddpo.report.fixed_samples import Change, other_changes, trained_change
from ddpo.report.wording import alike, number, signed_share, split_unit, with_error
from ddpo.runs.record import RunRecord

DIVERSITY_FALL = 0.2
"""Fall of the diversity of the fixed samples, as a share of what it was, from which it is a sign."""
FAR_FROM_BASE = 20.0
"""Nats per trajectory from which the divergence is a sign."""


def findings(run: RunRecord) -> list[Finding]:
    """Return what every look found, signs first, the grave ones before the others."""
    looks = (
        training.length,
        _reward,
        training.collapse,
        _other_rewards,
        _diversity,
        _divergence,
        training.spread,
        training.clip,
        training.ratio,
        training.left_out,
    )
    return ordered([finding for look in looks for finding in look(run)])


def ordered(found: list[Finding]) -> list[Finding]:
    """Return findings in the order in which they are told."""
    order = {"sign": 0, "clear": 1, "unknown": 2}
    return sorted(found, key=lambda finding: (order[finding.level], not finding.grave))


def _reward(run: RunRecord) -> list[Finding]:
    """Look what the trained reward did: on the fixed samples, else from the first to the last third of iterations."""
    subject, changed = "Reward of the fixed samples", trained_change(run)
    if changed is not None and changed.difference.number > 1:
        key, moved = f"evaluation/{changed.reward}/mean", changed.difference
        numbers = f"on the same prompts and seeds it changed by {_difference(run, changed)}"
    elif (thirds := reward_trend(run)) is not None:
        subject, key, moved = "Reward of the iterations", "reward/mean", thirds
        difference = with_error(thirds.mean, thirds.error, sign=True)
        numbers = f"from the first to the last third of the iterations it changed by {difference}"
    else:
        why = "it was not measured before and after training"
        return [unknown(subject, why if changed is None else "a single fixed sample has no standard error")]
    if moved.rose:
        return [clear(subject, numbers, key)]
    told = f"{numbers[0].upper()}{numbers[1:]}"
    if moved.fell:
        advice = "Lower learning_rate, and see with `ddpo reward score` that higher is better."
        return [sign("The reward fell", f"{told}.", key, advice=advice, grave=True)]
    text = f"{told}, and the 95 % interval of the difference includes 0: no clear improvement."
    advice = "Change what the other signs name; without any, train on or draw more samples_per_iteration."
    return [sign("Flat reward", text, key, advice=advice)]


def _other_rewards(run: RunRecord) -> list[Finding]:
    if not (changes := other_changes(run)):
        return [unknown("Other rewards on the fixed samples", "none was measured besides the trained one")]
    found = []
    for changed in changes:
        name, key = split_unit(run.label(changed.reward))[0], f"evaluation/{changed.reward}/mean"
        before, after = alike(changed.before, changed.after)
        numbers = f"from {before} to {after} ({_difference(run, changed)})"
        if not changed.difference.fell:
            what = "rose" if changed.difference.rose else "did not clearly change,"
            found.append(clear(name, f"{what} {numbers}", key))
            continue
        text = (
            f"On the same prompts and seeds {name} fell {numbers}. A trained reward that rises while another measure "
            "of the same samples falls is what overoptimisation looks like; the samples show what was given up."
        )
        advice = "Keep an earlier model, or train on a sum of both rewards."
        found.append(sign(f"{name} fell", text, key, advice=advice))
    return found


def _diversity(run: RunRecord) -> list[Finding]:
    subject = "Diversity of the fixed samples"
    measured = [value for evaluation in run.evaluations if (value := evaluation.diversity) is not None]
    if len(measured) < 2 or measured[0] <= 0:
        return [unknown(subject, "it was not measured before and after training")]
    before, after = alike(measured[0], measured[-1])
    change = (measured[-1] - measured[0]) / measured[0]
    numbers = f"from {before} to {after} ({signed_share(change)})"
    if change > -DIVERSITY_FALL:
        return [clear(subject, f"went {numbers}")]
    text = (
        f"The mean difference of two fixed samples fell {numbers}: the samples became more alike. "
        "Some rewards ask for that (plain pictures are small pictures); otherwise it is a sign of collapse."
    )
    advice = "Stop earlier, or lower learning_rate."
    return [sign("Samples become alike", text, "evaluation/diversity", advice=advice)]


def _divergence(run: RunRecord) -> list[Finding]:
    subject = "Divergence from the base model"
    measured = [value for evaluation in run.evaluations if (value := evaluation.kl_to_base) is not None]
    if not measured:
        return [unknown(subject, "it was not measured (evaluation.kl_to_base)")]
    if measured[-1] < FAR_FROM_BASE:
        return [clear(subject, f"{number(measured[-1], 3)} nats a trajectory at the end")]
    # The best of n samples diverges by log n - (n - 1) / n nats, so d nats are the best of about exp(d + 1).
    text = (
        f"A trajectory's divergence from the base model reached {number(measured[-1], 3)} nats: as far "
        f"as the best of about 10^{(measured[-1] + 1) / math.log(10):.0f} of the base model's own samples. No number "
        "of nats is wrong in itself, but far from the base model a reward is worth doubting."
    )
    advice = "Compare with an earlier evaluation, or stop earlier."
    return [sign("Far from the base model", text, "evaluation/kl_to_base", advice=advice)]


def _difference(run: RunRecord, changed: Change) -> str:
    unit = split_unit(run.label(changed.reward))[1]
    return f"{with_error(changed.difference.mean, changed.difference.error, sign=True)} {unit}".rstrip()
