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


def draw_grid(
    images: Pixels, captions: Sequence[str], path: str | Path, *, columns: int | None = None, title: str | None = None
) -> None:
    """Write a PNG grid of tiles `(N, H, W, 3)`, uint8, each with its caption below, row by row.

    Small tiles are enlarged. Each line of a caption wraps once, and ends in "…" where that is not enough.

    Raises ValueError when shapes, dtype or counts do not fit.
    """
    from PIL import Image, ImageDraw, ImageFont

    _check(images)
    number = len(images)
    if len(captions) != number:
        raise ValueError(f"{number} images but {len(captions)} captions")
    factor = math.ceil(VISIBLE / max(images.shape[1:3]))
    height, width = (factor * side for side in images.shape[1:3])
    font, title_font = (ImageFont.load_default(size=size) for size in (CAPTION_SIZE, TITLE_SIZE))
    texts = [wrap(caption, width, font) for caption in captions]
    caption_height = (CAPTION_SIZE + 4) * max(text.count("\n") + 1 for text in texts) + 4  # room for descenders

    columns = columns or _balanced_columns(number)
    top, right, down = GAP + (TITLE_SIZE + GAP if title else 0), width + GAP, height + caption_height + GAP
    sheet_width = GAP + min(columns, number) * right
    sheet = Image.new("RGB", (sheet_width, top + math.ceil(number / columns) * down), "white")
    pen = ImageDraw.Draw(sheet)
    if title:
        pen.text((GAP, GAP), wrap(title, sheet_width - 2 * GAP, title_font).split("\n")[0], INK, title_font)
    for index, (image_HWC, text) in enumerate(zip(images, texts, strict=True)):
        x, y = GAP + index % columns * right, top + index // columns * down
        sheet.paste(Image.fromarray(image_HWC).resize((width, height), Image.Resampling.LANCZOS), (x, y))
        pen.text((x + width / 2, y + height + 3), text, INK, font, anchor="ma", align="center", spacing=4)
    _write(sheet, path)


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
    if before.shape != after.shape or len(captions_before) != len(captions_after):
        raise ValueError(f"before {before.shape} and after {after.shape} must have the same shape and captions")
    _check(before)
    number = len(before)
    columns = math.ceil(number / math.ceil(number / 8))
    padding = -number % columns  # white places without words fill the last row
    blank = np.full((padding, *before.shape[1:]), 255, np.uint8)
    parts = [np.concatenate([part, blank]) for part in (before, after)]
    words = [
        [*(f"{name}: {text}" for text in captions), *padding * [""]]
        for name, captions in (("before", captions_before), ("after", captions_after))
    ]
    rows = [slice(start, start + columns) for start in range(0, number, columns)]
    images = np.concatenate([part[row] for row in rows for part in parts])
    draw_grid(
        images, [text for row in rows for part in words for text in part[row]], path, columns=columns, title=title
    )


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


def wrap(caption: str, width: float, font: Font) -> str:
    """Return the caption in lines at most about `width` pixels wide, two of each of its own lines."""
    characters = max(4, int(width / font.getlength("n")))
    wrapped = (textwrap.wrap(line, characters, max_lines=2, placeholder=" …") for line in caption.splitlines())
    return "\n".join(line for lines in wrapped for line in lines)


def _balanced_columns(number: int) -> int:
    """Return the number of columns, between sqrt(N) and twice that, that leaves the fewest empty places."""
    root = tile_columns(number)
    return min(range(root, min(2 * root, number) + 1), key=lambda columns: (-number % columns, columns))


def _check(images: Pixels) -> None:
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or len(images) == 0:
        raise ValueError(f"images must be uint8 (N, H, W, 3), not {images.dtype} {images.shape}")


def _write(sheet: Image, path: str | Path) -> None:
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    write_atomically(path, buffer.getvalue())
