"""Signs in the metrics of the iterations: a training that cannot learn, does not, or loses what it has learned."""

from __future__ import annotations

import math
from statistics import fmean, median

from ddpo.report.findings import (
    ENOUGH_ITERATIONS,
    Finding,
    clear,
    late,
    mean_error,
    outcome,
    reward_with_errors,
    section,
    sign,
    trend,
    unknown,
    updates,
)
from ddpo.report.wording import number, share
from ddpo.runs.record import RunRecord, finite

NO_SPREAD = 1e-6
"""Standard deviation of the rewards, relative to their mean where that is above 1, that is none: what is added to it
when advantages are normalised is as large, and rounding to float32 is not far below."""
SPREAD_LEFT = 0.05
"""Share of the first iteration's spread of the rewards under which it is a sign."""
WITHIN_PROMPTS = 1e-3
"""Share of the rewards' variance that lies within prompts from which the samples of a prompt are told apart: below, a
prompt's samples spread by less than 3 % of what all of them do."""
SATURATED_CLIP = 0.5
"""Share of the pairs that can lie outside the clip from which it is a sign: most of them give no gradient then."""
NEAR_TOLERANCE = 0.5
"""Share of the tolerated ratio error from which it is a sign."""
GRADIENT_GROWTH = 10.0
"""Growth of the gradient norm, last third over first third, that is a sign: AdamW's moments were made of gradients of
another size."""
FAR_ABOVE_LIMIT = 10.0
"""Times `max_gradient_norm` that every iteration's gradient must exceed to be a sign: all are cut to below a tenth."""
LEAST_GAIN = 0.5
"""Standard deviations of the rewards that a run must be able to gain: d nats raise a normal reward by sqrt(2 d) of
them at most (the Gaussian tilted by exp(beta r) attains it)."""
LARGE_STEP = 10.0
"""Nats of a denoising step within an iteration from which it is a sign: importance ratios of e^4.5 are typical then
(their logarithm's standard deviation is sqrt(2 d)), and the samples say little about the policy they are to improve."""
STEP_JUMP = 10.0
"""Times the median divergence of a step that a single iteration must exceed to be a sign."""
DRIFT = 2.0
"""Growth of the divergence of a step, last third over first third, that is a sign when the reward is flat."""
COLLAPSE = 0.5
"""Share of what the reward had gained at its best that must be lost again to be a sign."""
COLLAPSE_ERRORS = 3.0
"""Standard errors by which the reward must have risen and fallen again: the best of many moments is high by chance."""
FEW_EFFECTIVE = 0.02
"""Share of the samples under which the effective ones are a sign."""
SKIPPED_UPDATES = 0.1
"""Share of updates left out from which it is a sign."""
FAILED_REWARDS = 0.1
"""Share of samples without a reward from which it is a sign: prompts it always fails on are never trained."""


def length(run: RunRecord) -> list[Finding]:
    """Look whether there are iterations enough to speak of a trend."""
    done = len(run.metrics)
    if done >= ENOUGH_ITERATIONS:
        return []
    text = f"{done} iteration{'s'[: done != 1]}: too few to tell a trend from noise, {ENOUGH_ITERATIONS} at least"
    return [unknown("Trend over the iterations", text)]


def spread(run: RunRecord) -> list[Finding]:
    """Look whether the samples are scored differently at all."""
    subject, key = "Spread of the rewards", "reward/std"
    if not (spreads := run.series(key)[1]):
        return [unknown(subject, "reward/std was not logged")]
    first, recent = spreads[0], late(spreads)
    if _constant(run):
        text = (
            f"All samples score the same: the standard deviation of an iteration's rewards is {number(recent, 3)} of "
            "late. Every advantage is 0, and there is nothing to learn from."
        )
        advice = "Look at what the reward gives to different pictures with `ddpo reward score`."
        return [sign("The rewards do not differ", text, key, advice=advice, grave=True)]
    if recent <= SPREAD_LEFT * first:
        text = (
            f"The standard deviation of an iteration's rewards is {number(recent, 3)} of late, from {number(first, 3)} "
            "in the first iteration. Samples that all score alike give advantages of noise: there is little left to "
            "learn from."
        )
        return [sign("The rewards hardly differ", text, key, advice="Stop here, or take a reward that goes further.")]
    text = f"standard deviation {number(recent, 3)} of late, {number(first, 3)} at first"
    return [clear(subject, text, key), *_within_prompts(run)]


def _constant(run: RunRecord) -> bool:
    """Return whether the rewards do not differ; much else then follows and is no sign of its own."""
    spreads, means = run.series("reward/std")[1], run.series("reward/mean")[1]
    return bool(spreads) and late(spreads) <= NO_SPREAD * max(1.0, abs(late(means)) if means else 1.0)


def _within_prompts(run: RunRecord) -> list[Finding]:
    """Look whether samples of one prompt differ, which advantages per prompt live on.

    The standard error is over G drawn prompts of k samples each, N = G k: between prompts lies SSB = error^2 N (G - 1)
    of the sum of squares std^2 (N - 1); the rest lies within prompts.
    """
    each, samples = finite(run.config.get("samples_per_prompt", 1)), finite(run.config.get("samples_per_iteration"))
    if not each or not samples or each < 2 or samples // each < 2 or not _per_prompt(run):
        return []
    shares = [
        1 - error**2 * samples * (samples // each - 1) / (std**2 * (samples - 1))
        for row in run.metrics
        if not row.get("reward/skipped")  # else it is fewer samples
        if (std := finite(row.get("reward/std"))) and (error := finite(row.get("reward/standard_error"))) is not None
    ]
    if not shares:
        return []
    subject, keys = "Spread within prompts", ("reward/standard_error", "reward/std")
    within = max(0.0, late(shares))
    if within >= WITHIN_PROMPTS:
        return [clear(subject, f"{share(within)} of the rewards' variance lies within prompts", *keys)]
    text = (
        f"The {each:.0f} samples of a prompt all score the same: {number(100 * within, 2)} % of the rewards' variance "
        "of late lies within prompts. Advantages compare the samples of a prompt, so nothing is learned from these."
    )
    advice = "Take a reward with finer steps, harder prompts, or advantage=batch."
    return [sign("Samples of one prompt score alike", text, *keys, advice=advice, grave=True)]


def _per_prompt(run: RunRecord) -> bool:
    regression = str(section(run, "algorithm").get("name")).startswith("rwr")
    return not regression and section(run, "advantage").get("name", "running") != "batch"


def clip(run: RunRecord) -> list[Finding]:
    """Look how many pairs the clip leaves without a gradient: too many, or never one."""
    subject, key = "Clip fraction", "clip_fraction"
    if not (clipped := run.series(key)[1]):
        return []  # the algorithm clips nothing
    made = updates(run)
    # the first update of an iteration finds every ratio at 1
    possible = 1.0 if made is None or made <= 1 else 1 - 1 / made
    recent = late(clipped)
    if recent > SATURATED_CLIP * possible:
        text = (
            f"Of late {share(recent)} of the (sample, step) pairs lie outside the clip range when they are trained on"
            f"{f', of {share(possible)} that can' if possible < 1 else ''}, so most of them give no gradient."
        )
        advice = "Lower learning_rate or updates_per_iteration, or widen the clip."
        return [sign("Updates hit the clip", text, key, advice=advice)]
    idle = max(clipped) == 0 and possible < 1 and len(clipped) >= ENOUGH_ITERATIONS
    if idle and not _constant(run) and outcome(run) not in ("rose", None):
        text = (
            f"No (sample, step) pair of {len(clipped)} iterations lay outside the clip range although an iteration "
            f"makes {made:.0f} updates, and the reward did not rise: updates are far smaller than the clip allows."
        )
        return [sign("The clip is never active", text, key, advice="Raise learning_rate, or narrow the clip.")]
    return [clear(subject, f"{share(recent)} of the pairs of late", key)]


def ratio(run: RunRecord) -> list[Finding]:
    """Look how much of the tolerated error of the importance ratio is used up."""
    subject, key = "Error of the importance ratio", "ratio/max_error_at_start"
    if not (errors := run.series(key)[1]):
        return []  # the algorithm has no ratio
    worst, tolerance = max(errors), _tolerance(run)
    if tolerance is None:
        text = f"at most {number(worst, 2)}; the run itself stops above a tenth of the clip"
        return [clear(subject, text, key)]
    numbers = f"at most {number(worst, 2)}, tolerated are {number(tolerance, 2)}"
    if worst <= NEAR_TOLERANCE * tolerance:
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


def gradient(run: RunRecord) -> list[Finding]:
    """Look whether the gradient explodes, or is always far above what it is cut to."""
    subject, key = "Gradient norm", "gradient_norm"
    norms = [norm for norm in run.series(key)[1] if norm > 0]  # 0: every update of the iteration was left out
    if len(norms) < ENOUGH_ITERATIONS:
        return []
    third = len(norms) // 3
    first, last = median(norms[:third]), median(norms[-third:])
    numbers = f"from {number(first, 3)} to {number(last, 3)} (medians of the first and last third of the iterations)"
    if last > GRADIENT_GROWTH * first:
        text = f"The gradient's norm grew {numbers}: the updates are leaving the region where the gradient means much."
        advice = "Lower learning_rate, and go on from the model before the growth."
        return [sign("The gradient explodes", text, key, advice=advice, grave=True)]
    limit = finite(run.config.get("max_gradient_norm"))
    if limit is not None and min(norms) > FAR_ABOVE_LIMIT * limit:
        text = (
            f"The gradient's norm is never below {number(min(norms), 3)}, and max_gradient_norm is {number(limit)}: "
            "every update is cut to less than a tenth, so that large gradients count no more than small ones."
        )
        advice = f"Set max_gradient_norm to about {number(median(norms), 2)}, the median."
        return [sign("Every gradient is cut", text, key, advice=advice)]
    return [clear(subject, numbers, key)]


def reach(run: RunRecord) -> list[Finding]:
    """Look whether the policy can move far enough, till the planned end, for the reward to rise.

    At best every iteration moves it in the same direction, so that divergences grow with the square of iterations.
    """
    subject, steps = "How far the policy moves", run.series("kl/step")[1]
    if len(run.metrics) < ENOUGH_ITERATIONS or _constant(run):
        return []
    measured = [value for evaluation in run.evaluations if (value := evaluation.kl_to_base) is not None]
    if measured:
        nats, key = measured[-1], "evaluation/kl_to_base"
    elif steps and max(steps) > 0 and (grid := finite(section(run, "sampler").get("steps"))):
        nats, key = grid * fmean(steps) * len(steps) ** 2, "kl/step"
    else:
        return [unknown(subject, "neither evaluation/kl_to_base nor kl/step tells")]
    planned = max(run.planned or 0, run.done)
    nats *= (planned / run.done) ** 2
    gain = math.sqrt(2 * nats)
    if gain >= LEAST_GAIN:
        return [clear(subject, f"{number(nats, 3)} nats a trajectory in {planned:,} iterations", key)]
    text = (
        f"In {planned:,} iterations a trajectory moves by {number(nats, 2)} nats at most. So far away no reward can "
        f"have risen by more than about {number(gain, 2)} of its standard deviation."
    )
    return [sign("The learning rate is too small", text, key, advice="Raise learning_rate three- to tenfold.")]


def large_steps(run: RunRecord) -> list[Finding]:
    """Look whether an iteration moves the policy out of sight of its own samples."""
    subject, key = "Size of the steps", "kl/step"
    if not (steps := run.series(key)[1]):
        return []
    recent = late(steps)
    if recent <= LARGE_STEP:
        return [clear(subject, f"{number(recent, 2)} nats a denoising step of late", key)]
    text = (
        f"Within an iteration a denoising step moves by {number(recent, 2)} nats of late: the samples that later "
        "updates train on say little about the policy that has become of the one that drew them."
    )
    advice = "Lower learning_rate three- to tenfold, or updates_per_iteration."
    return [sign("The learning rate is too large", text, key, advice=advice, grave=outcome(run) != "rose")]


def jump(run: RunRecord) -> list[Finding]:
    """Look for a single iteration that moved the policy much further than the others."""
    steps = run.series("kl/step")[1]
    if len(steps) < ENOUGH_ITERATIONS or not (usual := median(steps)) or outcome(run) in ("rose", None):
        return []
    worst = max(range(len(steps)), key=steps.__getitem__)
    if steps[worst] <= STEP_JUMP * usual:
        return []
    text = (
        f"The divergence of a step is {number(steps[worst], 2)} nats in iteration {run.iterations[worst]} and "
        f"{number(usual, 2)} in the median iteration, without a clear rise of the reward: one iteration threw the "
        "policy off."
    )
    return [sign("The policy jumped", text, "kl/step", advice="Lower learning_rate or updates_per_iteration.")]


def drift(run: RunRecord) -> list[Finding]:
    """Look whether steps get larger while the reward does not rise."""
    subject, key = "Drift without learning", "kl/step"
    thirds = trend(run.series(key)[1])
    if thirds is None or outcome(run) in ("rose", None):
        return []
    if thirds.last <= DRIFT * thirds.first:
        return [clear(subject, "the divergence of a step does not grow", key)]
    text = (
        f"The divergence of a step grew from {number(thirds.first, 2)} to {number(thirds.last, 2)} nats (first and "
        "last third of the iterations) without a clear rise of the reward: the policy moves without learning."
    )
    return [sign(subject, text, key, advice="Lower learning_rate, or draw more samples_per_iteration.")]


def collapse(run: RunRecord) -> list[Finding]:
    """Look whether the reward was higher before: compares the best stretch of iterations with the first and last."""
    subject, key = "Best reward of the run", "reward/mean"
    means, errors = reward_with_errors(run)
    if len(means) < ENOUGH_ITERATIONS:
        return []
    width = max(2, len(means) // 6)
    stretches = [slice(first, first + width) for first in range(len(means) - width + 1)]
    level = [fmean(means[stretch]) for stretch in stretches]
    error = [mean_error(errors[stretch]) for stretch in stretches]
    best = max(range(len(level)), key=level.__getitem__)
    gained, lost = level[best] - level[0], level[best] - level[-1]
    chance = COLLAPSE_ERRORS * max(math.hypot(error[best], error[0]), math.hypot(error[best], error[-1]))
    where = f"iterations {run.iterations[best]} to {run.iterations[best + width - 1]}"
    if gained <= chance or lost <= chance or lost < COLLAPSE * gained:
        return [clear(subject, f"{number(level[best])} in {where}, {number(level[-1])} at the end", key)]
    text = (
        f"The mean reward rose from {number(level[0])} to {number(level[best])} ({where}) and fell back to "
        f"{number(level[-1])}, losing {share(lost / gained)} of the gain.{_meanwhile(run)}"
    )
    advice = "Lower learning_rate, and train no longer than to the best iterations."
    return [sign("The reward collapsed", text, key, "kl/step", "gradient_norm", advice=advice, grave=True)]


def _meanwhile(run: RunRecord) -> str:
    """Return a sentence on what the size of the steps and the gradient did."""
    words = {"kl/step": "the divergence of a step", "gradient_norm": "the gradient's norm"}
    changes = [
        f"{what} went from {number(thirds.first, 2)} to {number(thirds.last, 2)}"
        for key, what in words.items()
        if (thirds := trend(run.series(key)[1])) is not None
    ]
    return f" Meanwhile {' and '.join(changes)}." if changes else ""


def effective_samples(run: RunRecord) -> list[Finding]:
    """Look whether a regression's weights leave samples enough."""
    subject, key = "Effective samples", "weight/effective_samples"
    if not (effective := run.series(key)[1]):
        return []  # the algorithm has no weights
    recent, drawn = late(effective), finite(run.config.get("samples_per_iteration"))
    if drawn is None or recent > FEW_EFFECTIVE * drawn:
        return [clear(subject, f"{number(recent, 3)} of late", key)]
    text = (
        f"The weights of an iteration are worth {number(recent, 3)} equally weighted samples of the {drawn:,.0f} "
        "drawn: few samples decide everything."
    )
    return [sign("Few samples carry the weight", text, key, advice=_spreading(run))]


def _spreading(run: RunRecord) -> str:
    """Say which setting of the algorithm gives more samples a weight."""
    if "percentile" in section(run, "algorithm"):
        return "A smaller algorithm.percentile keeps more samples."
    return "A smaller algorithm.beta spreads the weights."


def skipped(run: RunRecord) -> list[Finding]:
    """Look how many updates changed no weight."""
    subject, key = "Updates left out", "updates_skipped"
    left_out, made = run.series(key)[1], updates(run)
    if not left_out or not made:
        return []
    part = sum(left_out) / (made * len(left_out))
    if part < SKIPPED_UPDATES:
        return [clear(subject, f"{sum(left_out):,.0f}", key)]
    text = f"{share(part)} of the updates changed no weight: their gradient overflowed in fp16, or was not finite."
    advice = "precision=bf16 or fp32 does not overflow; where that is set, lower learning_rate."
    return [sign("Updates are left out", text, key, advice=advice)]


def failed_rewards(run: RunRecord) -> list[Finding]:
    """Look how many samples were left out because the reward failed on them."""
    subject, key = "Samples left out", "reward/skipped"
    left_out, drawn = run.series(key)[1], finite(run.config.get("samples_per_iteration"))
    if not left_out or not drawn:
        return []  # scoring.on_error leaves none out
    part = sum(left_out) / (drawn * len(left_out))
    if part < FAILED_REWARDS:
        return [clear(subject, f"{sum(left_out):,.0f}", key)]
    text = f"{share(part)} of the samples were left out because the reward failed on their prompts."
    return [sign("The reward fails", text, key, advice="Try it with `ddpo doctor` and `ddpo reward score`.")]
