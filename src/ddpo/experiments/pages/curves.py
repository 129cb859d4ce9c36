"""What curves show, in words and tables: effectiveness, rounds, single prompts, overoptimisation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ddpo.experiments.definition import Experiment
from ddpo.experiments.figures.curves import panel_title, single_prompts
from ddpo.experiments.overoptimisation import PROXY, RECOGNITION, fall, parting
from ddpo.experiments.pages.markdown import bullets, counted, direction, table, verdict
from ddpo.experiments.results import Runs, TextRow, distinct, read_rows
from ddpo.report.wording import count, number, signed, with_interval

_LOWEST = 0.2
"""Share of the prompts that counts as those on which the base model is worst."""


def effectiveness(experiment: Experiment, folder: Path) -> str:
    """Return the reward at the end of every kind of run, and the experiment's claims held against it."""
    runs = Runs.read(folder)
    return "\n\n".join([*_final_rewards(runs), *_claims(experiment, runs)])


def _final_rewards(runs: Runs) -> list[str]:
    parts = ["### Reward at the end", _INTERVALS]
    for recipe in runs.recipes:
        rows = []
        for variant in runs.variants:
            points = runs.points(recipe, variant)
            base, last = points[0], points[-1]
            rows.append(
                [variant, f"{last.queries:,}", number(base.mean.mean), with_interval(last.mean),
                 with_interval(last.minus(base), sign=True)]
            )  # fmt: skip
        parts.append(f"**{panel_title(recipe)}**: {runs.label(recipe)}")
        parts.append(table(["", "reward queries", "base model", "trained", "change, paired by seed"], rows))
    return parts


_INTERVALS = (
    "Mean reward of the fixed samples over seeds, in brackets the 95 % interval (Student's, over seeds). "
    "Fixed samples are the same prompts and seeds before and after training."
)


def _claims(experiment: Experiment, runs: Runs) -> list[str]:
    """Return each claim with the difference at the end of the training, paired by seed."""
    claims = [claim for claim in experiment.claims if {claim.left, claim.right} <= set(runs.variants)]
    unchecked = [
        f"“{claim}” is not checked: not both were run here." for claim in experiment.claims if claim not in claims
    ]
    if not claims:
        return ["### Do the claims hold?", bullets(unchecked)] if unchecked else []
    rows, verdicts = [], []
    for recipe in runs.recipes:
        for claim in claims:
            difference = runs.points(recipe, claim.left)[-1].minus(runs.points(recipe, claim.right)[-1])
            verdicts.append(verdict(claim, difference))
            rows.append([panel_title(recipe), str(claim), with_interval(difference, sign=True), verdicts[-1]])
    return [
        "### Do the claims hold?",
        f"Differences of the reward at the end, paired by seed. {len(verdicts)} comparisons: {counted(verdicts)}.",
        table(["reward", "claim", "difference [95 % interval]", "verdict"], rows),
        *([bullets(unchecked)] if unchecked else []),
    ]


def rounds(experiment: Experiment, folder: Path) -> str:
    """Return the reward after every round and what separates the variants in the first and the last."""
    runs = Runs.read(folder)
    parts = []
    for recipe in runs.recipes:
        parts.append(f"**{panel_title(recipe)}**: {runs.label(recipe)}")
        parts.append(bullets(_rounds_in_words(runs, recipe)))
        parts.append(_rounds_table(runs, recipe))
    return "\n\n".join([_INTERVALS, *parts, *_claims(experiment, runs)])


def _rounds_in_words(runs: Runs, recipe: str) -> list[str]:
    sentences = []
    for variant in runs.variants:
        points = runs.points(recipe, variant)
        change = points[-1].minus(points[0])
        sentences.append(
            f"{variant}: after {points[-1].iteration} rounds the reward {direction(change)}: "
            f"{with_interval(change, sign=True)} against the base model."
        )
    if len(runs.variants) == 2:
        left, right = (runs.points(recipe, variant) for variant in runs.variants)
        for name, place in (("the first round", 1), (f"round {left[-1].iteration}", -1)):
            if len(left) > 1:
                difference = left[place].minus(right[place])
                clear = "clear" if difference.is_clear else "not clear"
                sentences.append(
                    f"After {name} the difference {runs.variants[0]} minus {runs.variants[1]} is "
                    f"{with_interval(difference, sign=True)}: {clear}."
                )
    return sentences


def _rounds_table(runs: Runs, recipe: str) -> str:
    by_variant = [{point.iteration: point for point in runs.points(recipe, variant)} for variant in runs.variants]
    iterations = sorted(set.intersection(*(set(points) for points in by_variant)))
    rows = [
        [str(iteration), *(with_interval(points[iteration].mean) for points in by_variant)] for iteration in iterations
    ]
    return table(["round", *runs.variants], rows)


def prompts(experiment: Experiment, folder: Path) -> str:
    """Return how the mean and single prompts fared."""
    runs, rows = Runs.read(folder), read_rows(folder / "prompts.csv")
    sentences, lines = [], []
    for variant in distinct(row["variant"] for row in rows):
        points = runs.points(runs.recipes[0], variant)
        change = points[-1].minus(points[0])
        lines.append([variant, number(points[0].mean.mean), with_interval(points[-1].mean),
                      with_interval(change, sign=True)])  # fmt: skip
        sentences.append(f"{variant}: {_prompts_in_words([row for row in rows if row['variant'] == variant])}")
    heading = ["prompts", "base model", "trained", "change, paired by seed"]
    label = f"Reward: {rows[0]['label']}. {_INTERVALS}"
    return "\n\n".join([bullets(sentences), label, table(heading, lines), *_claims(experiment, runs)])


def _prompts_in_words(rows: Sequence[TextRow]) -> str:
    series = {prompt: value_N for prompt, (_, value_N) in single_prompts(rows).items()}
    change = {prompt: value_N[-1] - value_N[0] for prompt, value_N in series.items()}
    risen = sum(value > 0 for value in change.values())
    fallen = sum(value < 0 for value in change.values())
    best, worst = max(change, key=change.__getitem__), min(change, key=change.__getitem__)
    lowest = sorted(series, key=lambda prompt: series[prompt][0])[: max(1, round(_LOWEST * len(series)))]
    before, after = (float(np.mean([series[prompt][place] for prompt in lowest])) for place in (0, -1))
    return (
        f"of {len(series)} prompts {risen} rose and {fallen} fell (mean over seeds). The most: “{best}” "
        f"({signed(change[best])}); the least: “{worst}” ({signed(change[worst])}). The {len(lowest)} prompts on which "
        f"the base model is worst went from {number(before, 3)} to {number(after, 3)}; as they were picked by the same "
        "samples, a part of that is regression to the mean."
    )


_MEASURES = {
    PROXY: "trained reward",
    RECOGNITION: "judge's recognition",
    "evaluation_diversity": "diversity",
    "evaluation_kl_to_base": "divergence from the base model, nats",
}


def overoptimisation(experiment: Experiment, folder: Path) -> str:
    """Return where the trained reward and recognition part, and what every measure did."""
    runs = Runs.read(folder)
    variant = runs.variants[0]
    sentences, parts = [], []
    for recipe in runs.recipes:
        sentences.append(f"**{panel_title(recipe)}**: {_parting_in_words(runs, recipe, variant)}")
        rows = []
        for measure, name in _MEASURES.items():
            points = runs.points(recipe, variant, measure)
            if points:
                change = points[-1].minus(points[0])
                words = "not measured" if len(points) == 1 else direction(change)
                rows.append([name, number(points[0].mean.mean), with_interval(points[-1].mean),
                             with_interval(change, sign=True), words])  # fmt: skip
        parts.append(f"**{panel_title(recipe)}**: the trained reward is {runs.label(recipe)}")
        parts.append(table(["", "base model", "at the end", "change, paired by seed", ""], rows))
    return "\n\n".join([bullets(sentences), _INTERVALS, *parts])


def _parting_in_words(runs: Runs, recipe: str, variant: str) -> str:
    found = parting(runs, recipe, variant)
    recognition = runs.points(recipe, variant, RECOGNITION)
    if not recognition:
        return "recognition was not measured."
    if found is None:
        change = recognition[-1].minus(recognition[0])
        return (
            f"recognition does not part from the reward in {recognition[-1].queries:,} queries: "
            f"{_why_not_parted(runs, recipe, variant)}; at the end it differs by {with_interval(change, sign=True)}."
        )
    rising = (
        f"and afterwards the trained reward still rises by {with_interval(found.reward_after, sign=True)}"
        if found.reward_after is not None and found.reward_after.mean > 0
        else "and afterwards the trained reward rises no more"
    )
    return (
        f"recognition is first clearly below the base model's after {found.queries:,} reward queries, by "
        f"{with_interval(found.recognition, sign=True)} there, and remains so at every later evaluation, while the "
        f"trained reward has changed by {with_interval(found.reward, sign=True)}, {rising}."
    )


def _why_not_parted(runs: Runs, recipe: str, variant: str) -> str:
    """Say why recognition, which was measured, does not part from the trained reward."""
    fallen = fall(runs, recipe, variant)
    if len(runs.seeds) == 1:
        return "with one seed there is no interval"
    if fallen.clear == 0:
        return "at no evaluation is it clearly below the base model's"
    if not fallen.lasts:
        return (
            f"at {fallen.clear} of {count(fallen.evaluations, 'evaluation')} it is clearly below the base model's, "
            "but not to the end"
        )
    return "it ends clearly below the base model's, but the trained reward is not above the base model's there"
