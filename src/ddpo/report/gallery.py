"""The fixed samples as the page shows them: best first, a frame per evaluation for the slider, images in the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ddpo.report.fixed_samples import measured
from ddpo.report.wording import count, number, split_unit, with_error
from ddpo.runs.configurations import ABSENT
from ddpo.runs.record import EvaluationRecord, RunRecord, Tiles

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_FRAMES = 32
"""Evaluations on the slider; of more, some in between are left out."""
MOST_SAMPLES = 96
"""Fixed samples on the page; of more, the best and the worst."""
BUDGET = 9_000_000
"""Bytes for all tiles of a page; base64 makes 12 MB of them."""
LARGEST = 320
"""Pixels of the longer side of a tile that is re-encoded; no tile is shown larger."""
SMALLEST = 48
"""Tiles are not shrunk below this many pixels, whatever the budget."""
_LOSSLESS_BYTES_PER_PIXEL = 2.0
_SHRINK = 0.75


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
    notes: list[str]
    """Sentences on what is not shown, or not as it was."""


def build_gallery(run: RunRecord, budget: int = BUDGET) -> Gallery | None:
    """Return the gallery of a run, tiles of about `budget` bytes at most; None where there is no evaluation."""
    if not run.evaluations:
        return None
    notes: list[str] = []
    total, newest = len(run.evaluations), run.evaluations[-1]
    chosen = [run.evaluations[place] for place in np.linspace(0, total - 1, min(total, MOST_FRAMES)).astype(int)]
    if len(chosen) < total:
        notes.append(f"The slider has {len(chosen)} of the {total} evaluations.")
    score_B = newest.scores(run.trained_reward or "")
    order = list(range(len(newest.samples))) if score_B is None else np.argsort(-score_B, kind="stable").tolist()
    if len(order) > MOST_SAMPLES:
        notes.append(f"Of the {len(order):,} fixed samples {MOST_SAMPLES} are shown: the best and the worst.")
        order = [*order[: MOST_SAMPLES // 2], *order[-MOST_SAMPLES // 2 :]]
    tiled: list[tuple[EvaluationRecord, list[Image]]] = []
    missing = []
    for evaluation in chosen:
        if evaluation.tiles is None:
            missing.append(f"There are no tiles of iteration {evaluation.iteration}.")
            continue
        try:
            tiled.append((evaluation, _read_tiles(evaluation.tiles, order)))
        except ValueError as error:
            missing.append(f"The samples of iteration {evaluation.iteration} are left out: {error}.")
    notes += missing if tiled else ["This run has no tiles to show: only the scores of its samples."]
    uris = _encode([tiles for _, tiles in tiled], budget) if tiled else [[]] * len(chosen)
    if tiled and uris[0][0].startswith("data:image/jpeg"):
        notes.append("Tiles are JPEGs here, large ones shrunk; samples/ has them as drawn.")
    shown = [evaluation for evaluation, _ in tiled] or chosen
    return Gallery(
        [_frame(run, evaluation, order, tiles) for evaluation, tiles in zip(shown, uris, strict=True)],
        [newest.identities[index] for index in order],
        [split_unit(run.label(name)) for name in newest.rewards],
        tiled[0][1][0].size if tiled else (1, 1),
        notes,
    )


def _read_tiles(tiles: Tiles, indices: Sequence[int]) -> list[Image]:
    """Return the tiles at `indices` of a sheet; raises ValueError when it is no picture, or too small a one."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(tiles.path) as picture:
            sheet = picture.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ValueError(f"{tiles.path.name} is no readable picture") from error
    cut = []
    for index in indices:
        row, column = divmod(index, tiles.columns)
        box = (column * tiles.width, row * tiles.height, (column + 1) * tiles.width, (row + 1) * tiles.height)
        if box[2] > sheet.width or box[3] > sheet.height:
            raise ValueError(f"{tiles.path.name} holds fewer tiles than its record says")
        cut.append(sheet.crop(box))
    return cut


def _frame(run: RunRecord, evaluation: EvaluationRecord, order: Sequence[int], tiles: list[str]) -> Frame:
    title, names, means = "Before training", run.evaluations[-1].rewards, []
    if evaluation.iteration != 0:
        queries = f", {run.position(evaluation.iteration):,.0f} reward queries"
        title = f"After {count(evaluation.iteration, 'iteration')}"
        title += queries if run.metrics and run.counts_queries else ""
    for name in names:
        if (mean := measured(evaluation, name)) is not None:
            words, unit = split_unit(run.label(name))
            means.append(f"{words} {with_error(mean.mean, mean.error)} {unit}".rstrip())
    scores = [evaluation.samples[index].rewards for index in order]
    captions = [[number(score[name], 3) if name in score else ABSENT for name in names] for score in scores]
    return Frame(title, "; ".join(means), captions, tiles)


def _encode(frames: Sequence[Sequence[Image]], budget: int) -> list[list[str]]:
    """Return the data URI of every tile, together about `budget` bytes at most.

    Few pixels stay as they are; many are shrunk, each by itself, and encoded lossily.
    """
    sizes = [tile.size for tiles in frames for tile in tiles]
    longest = max(side for size in sizes for side in size)
    pixels = sum(width * height for width, height in sizes)
    lossless = pixels * _LOSSLESS_BYTES_PER_PIXEL <= budget and longest <= LARGEST
    limit = min(LARGEST, longest)
    while True:
        encoded = [[_data_uri(tile, limit, lossless) for tile in tiles] for tiles in frames]
        total = sum(len(uri) * 3 // 4 for tiles in encoded for uri in tiles)
        if lossless or total <= budget or limit <= SMALLEST:
            return encoded
        limit = max(SMALLEST, int(_SHRINK * limit))


def _data_uri(tile: Image, limit: int, lossless: bool) -> str:
    """Return a tile, its longer side of `limit` pixels at most, as a URI that holds the picture."""
    small, buffer = tile.copy(), io.BytesIO()
    small.thumbnail((limit, limit))
    kind = "png" if lossless else "jpeg"
    small.save(buffer, kind, quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
