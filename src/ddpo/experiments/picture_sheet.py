"""From run folders to pictures.png, which holds pictures row by row, and pictures.csv, a row for each of them.

Never imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from ddpo.experiments.tables import FinishedRun, Row, write_rows
from ddpo.report.grid import draw_tiles, tile_columns
from ddpo.runs.folder import picture_file

T = TypeVar("T")

PICTURE_SIZE = 128
"""Pictures larger than this many pixels are made smaller for the sheet."""


@dataclass(frozen=True)
class Picture:
    """One sample at one moment of a run."""

    row: Row
    """Its row of pictures.csv."""
    file: Path
    """The picture, or the sheet that it is on."""
    box: tuple[int, int, int, int] | None = None
    """Left, upper, right and lower edge on the sheet; None: the whole file."""


def fixed_samples(runs: Iterable[FinishedRun], prompts: int, moments: int) -> list[Picture]:
    """Return the pictures of so many fixed samples, spread over the prompts, at so many moments of each run.

    The base model and the end of the training are among the moments. Runs without pictures are left out.
    """
    pictures = []
    for run in runs:
        drawn = [(record, record.tiles) for record in run.records() if record.tiles is not None]
        for record, tiles in spread(drawn, moments):
            # The fixed samples go through all prompts before one comes again.
            for index in spread(range(len({sample.prompt for sample in record.samples})), prompts):
                sample = record.samples[index]
                reward = sample.rewards[str(record.trained_reward)]
                row = {"prompt": sample.prompt, "sample_seed": sample.seed, "reward": reward}
                x, y = index % tiles.columns * tiles.width, index // tiles.columns * tiles.height
                pictures.append(Picture(run.row(record) | row, tiles.path, (x, y, x + tiles.width, y + tiles.height)))
    return pictures


def drawn_prompts(runs: Iterable[FinishedRun]) -> list[Picture]:
    """Return the pictures drawn of prompt sets, the base model's before the trained one's."""
    pictures = []
    for run in (run for run in runs if run.drawings):
        records = run.records()
        for record, model in ((records[0], "base"), (records[-1], "trained")):
            for drawing in run.drawings:
                for prompt in drawing.prompts:
                    row = {"prompt": prompt, "sample_seed": 0, "reward": None, "prompt_set": drawing.label}
                    pictures.append(Picture(run.row(record) | row, picture_file(getattr(drawing, model), prompt, 0)))
    return pictures


def spread(values: Sequence[T], number: int) -> list[T]:
    """Return at most `number` of the values, evenly spread, the first and the last among them."""
    return [values[round(place)] for place in np.linspace(0, len(values) - 1, min(number, len(values)))]


def write_pictures(folder: Path, pictures: Sequence[Picture]) -> None:
    """Write pictures.png, row by row, and pictures.csv, which says for each picture where it is and what it shows."""
    from PIL import Image

    tiles = []
    for picture in pictures:
        with Image.open(picture.file) as sheet:
            tile = sheet.convert("RGB").crop(picture.box)
        tile.thumbnail((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.LANCZOS)
        tiles.append(np.asarray(tile))
    draw_tiles(np.stack(tiles), folder / "pictures.png")
    height, width = tiles[0].shape[:2]
    columns = tile_columns(len(tiles))
    places = [{"x": index % columns * width, "y": index // columns * height} for index in range(len(tiles))]
    size = {"width": width, "height": height}
    write_rows(folder / "pictures.csv", [at | size | each.row for at, each in zip(places, pictures, strict=True)])
