"""What figures made of pictures, and evaluations on prompt sets, show in words and tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from ddpo.experiments.definition import Experiment
from ddpo.experiments.figures.curves import kind_title
from ddpo.experiments.figures.generalisation import titles_of
from ddpo.experiments.generalisation import Change, changes
from ddpo.experiments.pages.markdown import bullets, table
from ddpo.experiments.results import TextRow, distinct, read_rows
from ddpo.report.wording import count, number, signed, with_interval


def pictures(experiment: Experiment, folder: Path) -> str:
    """Return the rewards of the pictures that are shown, before and after."""
    rows = read_rows(folder / "pictures.csv")
    if not rows[0]["reward"]:
        sets = distinct(row["prompt_set"] for row in rows)
        return f"Drawn at seed 0 by the base model and by the models of the first training seed: {', '.join(sets)}."
    lines = []
    several = len(distinct(row["variant"] for row in rows)) > 1
    for recipe, variant in dict.fromkeys((row["recipe"], row["variant"]) for row in rows):
        part = [row for row in rows if (row["recipe"], row["variant"]) == (recipe, variant)]
        title = kind_title(recipe, variant if several else None)
        before, after = _at(part, min), _at(part, max)
        change_N = np.array([after[key] - before[key] for key in before])
        lines.append([
            title, part[0]["label"], number(float(np.mean(list(before.values()))), 3),
            number(float(np.mean(list(after.values()))), 3), f"{int((change_N > 0).sum())} of {len(change_N)}",
        ])  # fmt: skip
    return "\n\n".join([
        "The numbers below the pictures are their rewards. Rows of one prompt are the same prompt and seed; the runs "
        "are those of the first seed, the prompts are spread evenly over the list: none was picked by hand.",
        table(["", "reward", "shown, base model", "shown, trained", "samples that score higher"], lines),
    ])  # fmt: skip


def _at(rows: Sequence[TextRow], which: Callable[[Iterable[int]], int]) -> dict[tuple[str, str], float]:
    """Return the reward of each shown sample at the first or the last moment."""
    iteration = which(int(row["iteration"]) for row in rows)
    shown = [row for row in rows if int(row["iteration"]) == iteration]
    return {(row["prompt"], row["sample_seed"]): float(row["reward"]) for row in shown}


def generalisation(experiment: Experiment, folder: Path) -> str:
    """Return the change on every prompt set, and what of it carries over."""
    found = changes(read_rows(folder / "evaluation.csv"))
    titles = titles_of(found)
    sentences = [
        sentence
        for kind, title in titles.items()
        for sentence in _carried_over(title, [c for c in found if c.kind == kind and c.is_trained_reward])
    ]
    rows = [
        [
            titles[change.kind], change.label, change.prompt_set, str(change.prompts), number(change.base, 3),
            number(change.trained, 3), with_interval(change.mean, sign=True),
            " ".join(signed(float(f"{value:.3g}")) for value in change.by_seed.values()),
        ]
        for change in found
    ]  # fmt: skip
    headings = ["trained on", "measured", "prompts", "number", "base", "trained", "change [95 % interval]", "by seed"]
    words = (
        "Change: trained minus base model at the same prompts and seeds, averaged over training seeds; the interval is "
        "a bootstrap over prompts and does not cover the training seeds, which stand in the last column."
    )
    return "\n\n".join([bullets(sentences), words, table(headings, rows)])


def _carried_over(title: str, found: Sequence[Change]) -> list[str]:
    """Say for each prompt set beyond the first how the change compares with that on the first."""
    sentences = []
    near, *far = found
    if not near.mean.is_clear:
        return [f"{title}: training had no clear effect on the {near.prompt_set}; there is nothing to carry over."]
    for change in far:
        share = f"{100 * change.mean.mean / near.mean.mean:.0f} % of the change on the {near.prompt_set}"
        carried = change.mean.is_clear and change.mean.mean * near.mean.mean > 0
        verb = "carries over to" if carried else "does not clearly carry over to"
        agree = sum(value * near.mean.mean > 0 for value in change.by_seed.values())
        sentences.append(
            f"{title}: the effect {verb} {change.prompt_set} ({count(change.prompts, 'prompt')}): "
            f"{with_interval(change.mean, sign=True)}, {share}; {agree} of {len(change.by_seed)} training seeds agree."
        )
    return sentences
