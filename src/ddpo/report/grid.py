"""Picture grids: samples with prompt and reward below, the same before and after training, bare contact sheets."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ddpo.runtime.files import write_atomically

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

    Font = FreeTypeFont | ImageFont
    Pixels = npt.NDArray[np.uint8]

VISIBLE = 160
"""Pictures smaller than this many pixels are enlarged, by a whole factor, until they reach it."""
GAP = 10
CAPTION_SIZE = 13
CAPTION_LINES = 3
TITLE_SIZE = 18
INK = (32, 32, 32)
PAPER = (255, 255, 255)


def draw_grid(
    images: Pixels,
    captions: Sequence[str],
    path: str | Path,
    *,
    columns: int | None = None,
    title: str | None = None,
    scale: int | None = None,
    resample: str = "lanczos",
) -> None:
    """Write a PNG grid of images `(N, H, W, 3)`, uint8, each with its caption below, row by row.

    Small pictures are enlarged by the whole factor `scale` (default: until they reach `VISIBLE` pixels),
    `resample` being `lanczos` (smooth) or `nearest` (every pixel a square). Captions wrap, also at their own
    line breaks, and end in "…" after three lines.

    Raises ValueError when shapes, dtype or counts do not fit.
    """
    _check(images, captions)
    columns = columns or balanced_columns(len(images))
    cells = _cells(images, captions, scale, resample)
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    _write(_stack(rows, title, labels=None), path)


def draw_before_after(
    before: Pixels,
    after: Pixels,
    captions_before: Sequence[str],
    captions_after: Sequence[str],
    path: str | Path,
    *,
    columns: int | None = None,
    title: str | None = None,
    scale: int | None = None,
    resample: str = "lanczos",
) -> None:
    """Write a PNG of the same prompts and seeds before and after training, one above the other.

    `before` and `after` are `(N, H, W, 3)`, uint8. Rows labelled "before" and "after" alternate, each of at
    most `columns` pictures (default: up to 8). Other arguments as in `draw_grid`.

    Raises ValueError when shapes, dtype or counts do not fit.
    """
    _check(before, captions_before)
    _check(after, captions_after)
    if before.shape != after.shape:
        raise ValueError(f"before {before.shape} and after {after.shape} must have the same shape")
    blocks = math.ceil(len(before) / 8)
    columns = columns or math.ceil(len(before) / blocks)
    cells_before = _cells(before, captions_before, scale, resample)
    cells_after = _cells(after, captions_after, scale, resample)
    rows, labels = [], []
    for start in range(0, len(cells_before), columns):
        for label, cells in (("before", cells_before), ("after", cells_after)):
            rows.append(cells[start : start + columns])
            labels.append(label)
    _write(_stack(rows, title, labels), path)


def draw_tiles(images: Pixels, path: str | Path) -> None:
    """Write a PNG contact sheet for programs: images `(N, H, W, 3)`, uint8, side by side and pixel by pixel.

    Row by row in `tile_columns(N)` columns, without margins; places left over at the end are black.

    Raises ValueError when shape or dtype do not fit.
    """
    from PIL import Image

    _check(images, [""] * len(images))
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


def balanced_columns(number: int) -> int:
    """Return the number of columns, between sqrt(N) and twice that, that leaves the fewest empty places."""
    root = math.ceil(math.sqrt(number))
    return min(range(root, min(2 * root, number) + 1), key=lambda columns: (-number % columns, columns))


def whole_scale(size: int) -> int:
    """Return the smallest whole factor that brings `size` pixels to at least `VISIBLE`."""
    return max(1, math.ceil(VISIBLE / size))


def _check(images: Pixels, captions: Sequence[str]) -> None:
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or len(images) == 0:
        raise ValueError(f"images must be uint8 (N, H, W, 3), not {images.dtype} {images.shape}")
    if len(captions) != len(images):
        raise ValueError(f"{len(images)} images but {len(captions)} captions")


def _cells(images: Pixels, captions: Sequence[str], scale: int | None, resample: str) -> list[Image]:
    """Return one picture per sample: the image, enlarged, with its caption below; all of one size."""
    from PIL import Image, ImageDraw

    filters = {"lanczos": Image.Resampling.LANCZOS, "nearest": Image.Resampling.NEAREST}
    if resample not in filters:
        raise ValueError(f"resample must be lanczos or nearest, not {resample!r}")
    height, width = images.shape[1:3]
    factor = scale or whole_scale(max(height, width))
    size = (width * factor, height * factor)
    font = _font(CAPTION_SIZE)
    texts = [wrap(caption, size[0], font) for caption in captions]
    line_height = CAPTION_SIZE + 4
    caption_height = line_height * max(len(lines) for lines in texts) + 4  # room for descenders
    cells = []
    for image_HWC, lines in zip(images, texts, strict=True):
        cell = Image.new("RGB", (size[0], size[1] + caption_height), PAPER)
        picture = Image.fromarray(image_HWC)
        cell.paste(picture if factor == 1 else picture.resize(size, filters[resample]), (0, 0))
        draw = ImageDraw.Draw(cell)
        for number, line in enumerate(lines):
            _centred(draw, line, size[0] / 2, size[1] + 3 + number * line_height, font)
        cells.append(cell)
    return cells


def wrap(caption: str, width: float, font: Font) -> list[str]:
    """Return the caption in lines at most `width` pixels wide, at most `CAPTION_LINES` of them."""
    lines: list[str] = []
    for paragraph in caption.splitlines():
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if line and font.getlength(longer) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    if len(lines) > CAPTION_LINES:
        lines = [*lines[: CAPTION_LINES - 1], lines[CAPTION_LINES - 1] + " …"]
    return [_shorten(line, width, font) for line in lines]


def _shorten(line: str, width: float, font: Font) -> str:
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "…") > width:
        line = line[:-1]
    return line + "…"


def _stack(rows: list[list[Image]], title: str | None, labels: list[str] | None) -> Image:
    """Return the rows of cells on one sheet, a title above and a label left of each row."""
    from PIL import Image, ImageDraw

    width, height = rows[0][0].size
    top = GAP + (TITLE_SIZE + GAP if title else 0)
    font = _font(TITLE_SIZE)
    left = GAP + (math.ceil(max(font.getlength(label) for label in labels)) + GAP if labels else 0)
    columns = max(len(row) for row in rows)
    size = (left + columns * (width + GAP), top + len(rows) * (height + GAP))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((left, GAP), _shorten(title, size[0] - left - GAP, font), fill=INK, font=font)
    for row_number, row in enumerate(rows):
        y = top + row_number * (height + GAP)
        if labels:
            draw.text((GAP, y + height // 2 - TITLE_SIZE), labels[row_number], fill=INK, font=font)
        for column, cell in enumerate(row):
            sheet.paste(cell, (left + column * (width + GAP), y))
    return sheet


def _centred(draw: ImageDraw, text: str, x: float, y: float, font: Font) -> None:
    draw.text((x - font.getlength(text) / 2, y), text, fill=INK, font=font)


def _font(size: int) -> Font:
    from PIL import ImageFont

    return ImageFont.load_default(size=size)


def _write(sheet: Image, path: str | Path) -> None:
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    write_atomically(path, buffer.getvalue())
