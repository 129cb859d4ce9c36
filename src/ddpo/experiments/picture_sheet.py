"""From run folders to pictures.png, which holds pictures row by row, and pictures.csv, a row for each of them.

Never imports torch.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ddpo.experiments.tables import FinishedRun, Row, write_rows
from ddpo.runs.folder import picture_file
from ddpo.runtime.files import write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")

PICTURE_SIZE = 128
"""Pictures larger than this many pixels are made smaller for the sheet."""
SHEET_COLUMNS = 12
"""Pictures in a row of the sheet."""


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
        for record in spread([record for record in run.records() if record.tiles is not None], moments):
            tiles = record.tiles
            assert tiles is not None, "those without are left out"
            # The fixed samples go through all prompts before one comes again.
            for index in spread(range(len({sample.prompt for sample in record.samples})), prompts):
                sample = record.samples[index]
                shown = {"prompt": sample.prompt, "sample_seed": sample.seed}
                x, y = index % tiles.columns * tiles.width, index // tiles.columns * tiles.height
                row = run.row(record) | shown | {"reward": sample.rewards[str(record.trained_reward)]}
                pictures.append(Picture(row, tiles.path, (x, y, x + tiles.width, y + tiles.height)))
    return pictures


def drawn_prompts(runs: Iterable[FinishedRun]) -> list[Picture]:
    """Return the pictures drawn of prompt sets, the base model's before the trained one's."""
    pictures = []
    for run in (run for run in runs if run.drawings):
        records = run.records()
        for record, model in ((records[0], "base"), (records[-1], "trained")):
            for drawing in run.drawings:
                for prompt in drawing.prompts:
                    shown = {"prompt": prompt, "sample_seed": 0, "reward": None, "prompt_set": drawing.label}
                    file = picture_file(getattr(drawing, model), prompt, 0)
                    pictures.append(Picture(run.row(record) | shown, file))
    return pictures


def spread(values: Sequence[T], number: int) -> list[T]:
    """Return at most `number` of the values, evenly spread, the first and the last among them."""
    if len(values) <= number:
        return list(values)
    return [values[round(place)] for place in np.linspace(0, len(values) - 1, number)]


def write_pictures(folder: Path, pictures: Sequence[Picture]) -> None:
    """Write pictures.png, row by row, and pictures.csv, which says for each picture where it is and what it shows."""
    from PIL import Image

    tiles = [_tile(picture) for picture in pictures]
    width, height = tiles[0].size
    columns = min(SHEET_COLUMNS, len(tiles))
    sheet = Image.new("RGB", (columns * width, -(-len(tiles) // columns) * height))
    rows = []
    for number, (tile, picture) in enumerate(zip(tiles, pictures, strict=True)):
        x, y = number % columns * width, number // columns * height
        sheet.paste(tile, (x, y))
        rows.append({"x": x, "y": y, "width": width, "height": height, **picture.row})
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    write_atomically(folder / "pictures.png", buffer.getvalue())
    write_rows(folder / "pictures.csv", rows)


def _tile(picture: Picture) -> Image:
    from PIL import Image

    with Image.open(picture.file) as sheet:
        tile = sheet.convert("RGB").crop(picture.box)
    scale = min(1.0, PICTURE_SIZE / max(tile.size))
    size = round(tile.width * scale), round(tile.height * scale)
    return tile if scale == 1 else tile.resize(size, Image.Resampling.LANCZOS)
