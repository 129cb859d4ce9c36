"""The fixed samples as the page shows them: a frame per evaluation for the slider, and the best and worst."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ddpo.report.contact_sheet import Sheet, encode_sheets, read_tiles
from ddpo.report.fixed_samples import extremes, measured, mirrors
from ddpo.report.wording import column_decimals, count, fixed, split_unit, with_error
from ddpo.runs.configurations import ABSENT
from ddpo.runs.record import EvaluationRecord, RunRecord

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_FRAMES = 32
"""Evaluations on the slider; of more, some in between are left out."""
MOST_SAMPLES = 96
"""Fixed samples with a picture; of more, the first ones and the best and worst."""


@dataclass(frozen=True)
class Frame:
    """One evaluation on the slider."""

    style: str
    """CSS class of its sheet of pictures."""
    title: str
    summary: str
    """The means of the measured rewards."""
    captions: list[list[str]]
    """The scores of each sample, in the order of `Gallery.rewards`."""


@dataclass(frozen=True)
class Sample:
    """One fixed sample: what stays the same through training."""

    prompt: str
    seed: str
    position: str
    """CSS: where the sheet of pictures has to stand to show it."""


@dataclass(frozen=True)
class Card:
    """One of the best or worst samples with its picture before training."""

    sample: Sample
    before: str
    """Trained reward before training; empty where it was not measured."""
    after: str


@dataclass(frozen=True)
class Gallery:
    """All fixed samples of a run that are shown."""

    frames: list[Frame]
    samples: list[Sample]
    rewards: list[tuple[str, str]]
    """Name and unit of each reward in the captions, the trained one first."""
    best: list[Card]
    worst: list[Card]
    css: str
    """Rules that hold the pictures, by class."""
    notes: list[str] = field(default_factory=list)
    """Sentences on what is not shown, or not as it was."""

    @property
    def data(self) -> dict[str, Any]:
        """What assets/page.js needs to move the slider."""
        return {"frames": [vars(frame) for frame in self.frames]}


def build_gallery(run: RunRecord, anchor: str, budget: int) -> Gallery | None:
    """Return the gallery of a run, pictures of about `budget` bytes at most; None where there is no evaluation.

    Classes of its style sheet begin with `anchor`.
    """
    if not run.evaluations:
        return None
    notes: list[str] = []
    shown = _thinned(run.evaluations)
    if len(shown) < len(run.evaluations):
        notes.append(f"The slider has {len(shown)} of the {len(run.evaluations)} evaluations.")
    indices = _shown_samples(run)
    total = len(run.evaluations[-1].samples)
    if len(indices) < total:
        notes.append(
            f"Of the {total:,} fixed samples {len(indices)} are shown: the first ones, the best and the worst."
        )
    pictured, tiles = _with_pictures(shown, indices, notes)
    sheets = encode_sheets(tiles, budget)
    if sheets and sheets[0].reduced:
        notes.append(
            f"Pictures are JPEGs of {sheets[0].width} x {sheets[0].height} pixels here; samples/ has them as drawn."
        )
    names = _captioned(run)
    samples = [
        Sample(*run.evaluations[-1].identities[index], sheets[0].background_position(place) if sheets else "")
        for place, index in enumerate(indices)
    ]
    frames = [_frame(run, evaluation, indices, names, anchor) for evaluation in pictured or shown]
    best, worst = _cards(run, indices, samples)
    rewards = [split_unit(run.label(name)) for name in names]
    return Gallery(frames, samples, rewards, best, worst, _css(pictured, sheets, anchor), notes)


def frame_title(run: RunRecord, iteration: int) -> str:
    """Return when an evaluation was made, in words."""
    if iteration == 0:
        return "before training"
    queries = f", {run.position(iteration):,.0f} reward queries" if run.metrics and run.counts_queries else ""
    return f"after {count(iteration, 'iteration')}{queries}"


def _thinned(evaluations: Sequence[EvaluationRecord]) -> list[EvaluationRecord]:
    """Return at most `MOST_FRAMES` evaluations, evenly chosen, with the first and the last."""
    last = len(evaluations) - 1
    if last < MOST_FRAMES:
        return list(evaluations)
    return [evaluations[round(place * last / (MOST_FRAMES - 1))] for place in range(MOST_FRAMES)]


def _shown_samples(run: RunRecord) -> list[int]:
    """Return the indices of the samples that get a picture."""
    total = len(run.evaluations[-1].samples)
    if total <= MOST_SAMPLES or run.trained_reward is None:
        return list(range(min(total, MOST_SAMPLES)))
    best, worst = extremes(run.evaluations[-1], run.trained_reward)
    first = range(MOST_SAMPLES - len(best) - len(worst))
    return sorted({*first, *best, *worst})


def _with_pictures(
    evaluations: Sequence[EvaluationRecord], indices: Sequence[int], notes: list[str]
) -> tuple[list[EvaluationRecord], list[list[Image]]]:
    """Return the evaluations whose pictures can be read, and the pictures; notes the others."""
    pictured: list[EvaluationRecord] = []
    tiles: list[list[Image]] = []
    for evaluation in evaluations:
        if evaluation.tiles is None:
            notes.append(f"There are no pictures of iteration {evaluation.iteration}.")
            continue
        try:
            cut = read_tiles(evaluation.tiles, indices)
        except ValueError as error:
            notes.append(f"The pictures of iteration {evaluation.iteration} are left out: {error}.")
            continue
        if tiles and cut[0].size != tiles[0][0].size:
            notes.append(f"The pictures of iteration {evaluation.iteration} are left out: they have another size.")
            continue
        pictured.append(evaluation)
        tiles.append(cut)
    return pictured, tiles


def _captioned(run: RunRecord) -> list[str]:
    """Return the rewards in captions: all but those that are the trained one with the opposite sign."""
    return [name for name in run.evaluations[-1].rewards if not mirrors(run, name)]


def _frame(
    run: RunRecord, evaluation: EvaluationRecord, indices: Sequence[int], names: Sequence[str], anchor: str
) -> Frame:
    means = []
    for name in names:
        if (mean := measured(evaluation, name)) is not None:
            words, unit = split_unit(run.label(name))
            means.append(f"{words} {with_error(mean.mean, mean.error)} {unit}".rstrip())
    scores = [evaluation.samples[index].rewards for index in indices]
    decimals = [_score_decimals(run, name) for name in names]
    captions = [
        [fixed(score[name], places) if name in score else ABSENT for name, places in zip(names, decimals, strict=True)]
        for score in scores
    ]
    title = frame_title(run, evaluation.iteration)
    return Frame(_style(anchor, evaluation), title[0].upper() + title[1:], "; ".join(means), captions)


def _score_decimals(run: RunRecord, reward: str) -> int:
    """Return the decimals that all scores of a reward are written with."""
    scores = [evaluation.scores(reward) for evaluation in (run.evaluations[0], run.evaluations[-1])]
    return column_decimals([float(score) for score_B in scores if score_B is not None for score in score_B])


def _cards(run: RunRecord, indices: Sequence[int], samples: Sequence[Sample]) -> tuple[list[Card], list[Card]]:
    reward = run.trained_reward
    if reward is None:
        return [], []
    first, last = run.evaluations[0], run.evaluations[-1]
    before_B, after_B = first.scores(reward), last.scores(reward)
    if after_B is None:
        return [], []
    decimals = _score_decimals(run, reward)
    place = {index: position for position, index in enumerate(indices)}

    def card(index: int) -> Card:
        before = fixed(float(before_B[index]), decimals) if before_B is not None and first is not last else ""
        return Card(samples[place[index]], before, fixed(float(after_B[index]), decimals))

    best, worst = extremes(last, reward)
    return [card(index) for index in best], [card(index) for index in worst]


def _css(pictured: Sequence[EvaluationRecord], sheets: Sequence[Sheet], anchor: str) -> str:
    rules = [
        f".{_style(anchor, evaluation)}{{background-image:url({sheet.data_uri})}}"
        for evaluation, sheet in zip(pictured, sheets, strict=True)
    ]
    if sheets:
        sheet = sheets[0]
        ratio = f"{sheet.width}/{sheet.height}"
        rules.append(f"#{anchor} .tile{{background-size:{sheet.background_size};aspect-ratio:{ratio}}}")
    return "\n".join(rules)


def _style(anchor: str, evaluation: EvaluationRecord) -> str:
    return f"{anchor}-sheet-{evaluation.iteration}"
