"""Grids of samples: with prompt and reward below, the same before and after training, bare contact sheets."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ddpo.runtime.files import write_atomically

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont, ImageFont

    Font = FreeTypeFont | ImageFont
    Pixels = npt.NDArray[np.uint8]

VISIBLE = 160
"""Tiles smaller than this many pixels are enlarged, by a whole factor, until they reach it."""
GAP = 10
CAPTION_SIZE = 13
TITLE_SIZE = 18
INK = (32, 32, 32)
PAPER = (255, 255, 255)


def draw_grid(
    images: Pixels, captions: Sequence[str], path: str | Path, *, columns: int | None = None, title: str | None = None
) -> None:
    """Write a PNG grid of tiles `(N, H, W, 3)`, uint8, each with its caption below, row by row.

    Small tiles are enlarged. Each line of a caption wraps once, and ends in "…" where that is not enough.

    Raises ValueError when shapes, dtype or counts do not fit.
    """
    cells = _cells(images, captions)
    columns = columns or _balanced_columns(len(images))
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    _write(_stack(rows, title), path)


def draw_before_after(
    before: Pixels,
    after: Pixels,
    captions_before: Sequence[str],
    captions_after: Sequence[str],
    path: str | Path,
    *,
    title: str | None = None,
) -> None:
    """Write a PNG of the same prompts and seeds before and after training, one above the other.

    `before` and `after` are `(N, H, W, 3)`, uint8. Rows of up to 8 tiles before and after alternate.

    Raises ValueError when shapes, dtype or counts do not fit.
    """
    if before.shape != after.shape:
        raise ValueError(f"before {before.shape} and after {after.shape} must have the same shape")
    captions = [f"before: {text}" for text in captions_before] + [f"after: {text}" for text in captions_after]
    cells, number = _cells(np.concatenate([before, after]), captions), len(before)
    columns = math.ceil(number / math.ceil(number / 8))
    pairs = (slice(start, min(start + columns, number)) for start in range(0, number, columns))
    rows = [part[place] for place in pairs for part in (cells[:number], cells[number:])]
    _write(_stack(rows, title), path)


def draw_tiles(images: Pixels, path: str | Path) -> None:
    """Write a PNG contact sheet for programs: images `(N, H, W, 3)`, uint8, side by side and pixel by pixel.

    Row by row in `tile_columns(N)` columns, without margins; places left over at the end are black.

    Raises ValueError when shape or dtype do not fit.
    """
    from PIL import Image

    _check(images)
    number, height, width, channels = images.shape
    columns = tile_columns(number)
    rows = math.ceil(number / columns)
    places = np.zeros((rows * columns, height, width, channels), np.uint8)
    places[:number] = images
    sheet = places.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    _write(Image.fromarray(sheet.reshape(rows * height, columns * width, channels)), path)


def tile_columns(number: int) -> int:
    """Return the columns of a contact sheet: the smallest square that holds the pictures."""
    return math.ceil(math.sqrt(number))


def _balanced_columns(number: int) -> int:
    """Return the number of columns, between sqrt(N) and twice that, that leaves the fewest empty places."""
    root = math.ceil(math.sqrt(number))
    return min(range(root, min(2 * root, number) + 1), key=lambda columns: (-number % columns, columns))


def _check(images: Pixels) -> None:
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or len(images) == 0:
        raise ValueError(f"images must be uint8 (N, H, W, 3), not {images.dtype} {images.shape}")


def _cells(images: Pixels, captions: Sequence[str]) -> list[Image]:
    """Return one picture per sample: the tile, enlarged, with its caption below; all of one size."""
    from PIL import Image, ImageDraw

    _check(images)
    if len(captions) != len(images):
        raise ValueError(f"{len(images)} images but {len(captions)} captions")
    factor = math.ceil(VISIBLE / max(images.shape[1:3]))
    height, width = (factor * side for side in images.shape[1:3])
    font = _font(CAPTION_SIZE)
    texts = [wrap(caption, width, font) for caption in captions]
    caption_height = (CAPTION_SIZE + 4) * max(text.count("\n") + 1 for text in texts) + 4  # room for descenders
    cells = []
    for image_HWC, text in zip(images, texts, strict=True):
        cell = Image.new("RGB", (width, height + caption_height), PAPER)
        cell.paste(Image.fromarray(image_HWC).resize((width, height), Image.Resampling.LANCZOS), (0, 0))
        ImageDraw.Draw(cell).text((width / 2, height + 3), text, INK, font, anchor="ma", align="center", spacing=4)
        cells.append(cell)
    return cells


def wrap(caption: str, width: float, font: Font) -> str:
    """Return the caption in lines at most about `width` pixels wide, two of each of its own lines."""
    characters = max(4, int(width / font.getlength("n")))
    wrapped = (textwrap.wrap(line, characters, max_lines=2, placeholder=" …") for line in caption.splitlines())
    return "\n".join(line for lines in wrapped for line in lines)


def _stack(rows: list[list[Image]], title: str | None) -> Image:
    """Return the rows of cells on one sheet, a title above."""
    from PIL import Image, ImageDraw

    width, height = rows[0][0].size
    top = GAP + (TITLE_SIZE + GAP if title else 0)
    size = (GAP + max(len(row) for row in rows) * (width + GAP), top + len(rows) * (height + GAP))
    sheet = Image.new("RGB", size, PAPER)
    if title:
        font = _font(TITLE_SIZE)
        ImageDraw.Draw(sheet).text((GAP, GAP), wrap(title, size[0] - 2 * GAP, font).split("\n")[0], INK, font)
    for line, row in enumerate(rows):
        for column, cell in enumerate(row):
            sheet.paste(cell, (GAP + column * (width + GAP), top + line * (height + GAP)))
    return sheet


def _font(size: int) -> Font:
    from PIL import ImageFont

    return ImageFont.load_default(size=size)


def _write(sheet: Image, path: str | Path) -> None:
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    write_atomically(path, buffer.getvalue())
