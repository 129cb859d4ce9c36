"""The fixed samples as the page shows them: best first, and a frame per evaluation for the slider."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ddpo.report.fixed_samples import measured
from ddpo.report.tiles import encode, read_tiles
from ddpo.report.wording import count, number, split_unit, with_error
from ddpo.runs.configurations import ABSENT
from ddpo.runs.record import EvaluationRecord, RunRecord

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_FRAMES = 32
"""Evaluations on the slider; of more, some in between are left out."""
MOST_SAMPLES = 96
"""Fixed samples on the page; of more, the best and the worst."""


@dataclass(frozen=True)
class Frame:
    """One evaluation on the slider."""

    title: str
    summary: str
    """The means of the measured rewards."""
    captions: list[list[str]]
    """The scores of each sample, in the order of `Gallery.rewards`."""
    tiles: list[str]
    """The data URI of each sample; empty where the run has no tiles."""


@dataclass(frozen=True)
class Gallery:
    """All fixed samples of a run that are shown."""

    frames: list[Frame]
    samples: list[tuple[str, str]]
    """Prompt and seed of each: what stays the same through training."""
    rewards: list[tuple[str, str]]
    """Name and unit of each reward in the captions, the trained one first."""
    tile_size: tuple[int, int]
    """Width and height as they were drawn, pixels."""
    notes: list[str] = field(default_factory=list)
    """Sentences on what is not shown, or not as it was."""


def build_gallery(run: RunRecord, budget: int) -> Gallery | None:
    """Return the gallery of a run, tiles of about `budget` bytes at most; None where there is no evaluation."""
    if not run.evaluations:
        return None
    notes: list[str] = []
    total = len(run.evaluations)
    chosen = [run.evaluations[place] for place in np.linspace(0, total - 1, min(total, MOST_FRAMES)).astype(int)]
    if len(chosen) < total:
        notes.append(f"The slider has {len(chosen)} of the {total} evaluations.")
    order = _best_first(run)
    if len(order) > MOST_SAMPLES:
        notes.append(f"Of the {len(order):,} fixed samples {MOST_SAMPLES} are shown: the best and the worst.")
        order = [*order[: MOST_SAMPLES // 2], *order[-MOST_SAMPLES // 2 :]]
    tiled = _with_tiles(chosen, order, notes)
    uris = encode([tiles for _, tiles in tiled], budget)
    if tiled and uris[0][0].startswith("data:image/jpeg"):
        notes.append("Tiles are JPEGs here, large ones shrunk; samples/ has them as drawn.")
    shown = [evaluation for evaluation, _ in tiled] or chosen
    names = run.evaluations[-1].rewards
    frames = [
        _frame(run, evaluation, order, names, uris[place] if tiled else []) for place, evaluation in enumerate(shown)
    ]
    identities = run.evaluations[-1].identities
    rewards = [split_unit(run.label(name)) for name in names]
    return Gallery(
        frames, [identities[index] for index in order], rewards, tiled[0][1][0].size if tiled else (1, 1), notes
    )


def frame_title(run: RunRecord, iteration: int) -> str:
    """Return when an evaluation was made, in words."""
    if iteration == 0:
        return "Before training"
    queries = f", {run.position(iteration):,.0f} reward queries" if run.metrics and run.counts_queries else ""
    return f"After {count(iteration, 'iteration')}{queries}"


def _best_first(run: RunRecord) -> list[int]:
    """Return the indices of all samples by their trained reward at the last evaluation, where that was measured."""
    newest = run.evaluations[-1]
    score_B = newest.scores(run.trained_reward or "")
    return list(range(len(newest.samples))) if score_B is None else np.argsort(-score_B, kind="stable").tolist()


def _with_tiles(
    evaluations: Sequence[EvaluationRecord], order: Sequence[int], notes: list[str]
) -> list[tuple[EvaluationRecord, list[Image]]]:
    """Return the evaluations whose tiles can be read, with them; notes the others, where any have some."""
    tiled: list[tuple[EvaluationRecord, list[Image]]] = []
    missing = []
    for evaluation in evaluations:
        if evaluation.tiles is None:
            missing.append(f"There are no tiles of iteration {evaluation.iteration}.")
            continue
        try:
            tiled.append((evaluation, read_tiles(evaluation.tiles, order)))
        except ValueError as error:
            missing.append(f"The samples of iteration {evaluation.iteration} are left out: {error}.")
    notes += missing if tiled else ["This run has no tiles to show: only the scores of its samples."]
    return tiled


def _frame(
    run: RunRecord, evaluation: EvaluationRecord, order: Sequence[int], names: Sequence[str], tiles: list[str]
) -> Frame:
    means = []
    for name in names:
        if (mean := measured(evaluation, name)) is not None:
            words, unit = split_unit(run.label(name))
            means.append(f"{words} {with_error(mean.mean, mean.error)} {unit}".rstrip())
    scores = [evaluation.samples[index].rewards for index in order]
    captions = [[number(score[name], 3) if name in score else ABSENT for name in names] for score in scores]
    return Frame(frame_title(run, evaluation.iteration), "; ".join(means), captions, tiles)
