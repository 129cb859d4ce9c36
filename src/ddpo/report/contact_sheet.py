"""The pictures of the page: one sheet per evaluation, small enough that a page of many stays a page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddpo.report.grid import balanced_columns
from ddpo.runs.record import Tiles

if TYPE_CHECKING:
    from PIL.Image import Image

BUDGET = 9_000_000
"""Bytes for all pictures of a page; base64 makes 12 MB of them."""
LARGEST = 320
"""Pixels of the longer side of a tile that is re-encoded; no tile is shown larger."""
SMALLEST = 48
"""Tiles are not shrunk below this many pixels, whatever the budget."""
GUTTER = 2
"""Pixels by which a tile's edge is repeated around it: scaled in a browser, it mixes with itself, not its neighbour."""
_LOSSLESS_BYTES_PER_PIXEL = 2.0
_LOSSY_BYTES_PER_PIXEL = 0.35
_SHRINK = 0.75


@dataclass(frozen=True)
class Sheet:
    """Tiles of one evaluation on one picture, as a CSS sprite."""

    data_uri: str
    columns: int
    rows: int
    width: int
    """Pixels of one tile without its gutter."""
    height: int
    reduced: bool
    """Whether tiles were shrunk or lossily encoded."""

    @property
    def background_size(self) -> str:
        """CSS: the sheet's size in an element that shows one tile."""
        pitch = (self.width + 2 * GUTTER, self.height + 2 * GUTTER)
        return f"{100 * self.columns * pitch[0] / self.width:.4f}% {100 * self.rows * pitch[1] / self.height:.4f}%"

    def background_position(self, index: int) -> str:
        """CSS: where the sheet has to stand to show tile `index`.

        A percentage p puts the point p of the picture on the point p of the element:
        (element - picture) p = -offset.
        """
        row, column = divmod(index, self.columns)
        return f"{self._percent(column, self.columns, self.width)}% {self._percent(row, self.rows, self.height)}%"

    @staticmethod
    def _percent(place: int, places: int, size: int) -> str:
        pitch = size + 2 * GUTTER
        return f"{100 * (place * pitch + GUTTER) / (places * pitch - size):.4f}"


def read_tiles(tiles: Tiles, indices: Sequence[int]) -> list[Image]:
    """Return the pictures at `indices` of a sheet.

    Raises:
        ValueError: the file is no picture, or smaller than its description.
    """
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


def encode_sheets(frames: Sequence[Sequence[Image]], budget: int = BUDGET) -> list[Sheet]:
    """Return one sheet for each evaluation's tiles, all of one size, together about `budget` bytes at most.

    Few pixels stay as they are; many are shrunk and encoded lossily.
    """
    if not frames:
        return []
    width, height = frames[0][0].size
    pixels = sum(len(tiles) for tiles in frames) * width * height
    if pixels * _LOSSLESS_BYTES_PER_PIXEL <= budget and max(width, height) <= LARGEST:
        return [_sheet(tiles, (width, height), lossless=True) for tiles in frames]
    scale = min(1.0, LARGEST / max(width, height), math.sqrt(budget / (_LOSSY_BYTES_PER_PIXEL * pixels)))
    while True:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        sheets = [_sheet(tiles, size, lossless=False) for tiles in frames]
        if sum(len(sheet.data_uri) for sheet in sheets) * 3 / 4 <= budget or max(size) <= SMALLEST:
            return sheets
        scale *= _SHRINK


def _sheet(tiles: Sequence[Image], size: tuple[int, int], *, lossless: bool) -> Sheet:
    from PIL import Image

    columns = balanced_columns(len(tiles))
    rows = math.ceil(len(tiles) / columns)
    pitch = (size[0] + 2 * GUTTER, size[1] + 2 * GUTTER)
    picture = Image.new("RGB", (columns * pitch[0], rows * pitch[1]))
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        scaled = tile if tile.size == size else tile.resize(size, Image.Resampling.LANCZOS)
        _paste_with_gutter(picture, scaled, column * pitch[0], row * pitch[1])
    buffer = io.BytesIO()
    if lossless:
        picture.save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "JPEG", quality=85, optimize=True)
    kind = "png" if lossless else "jpeg"
    uri = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Sheet(uri, columns, rows, *size, reduced=not lossless)


def _paste_with_gutter(picture: Image, tile: Image, x: int, y: int) -> None:
    """Put a tile on the sheet with its edge pixels repeated `GUTTER` times around it."""
    import numpy as np
    from PIL import Image

    padded = np.pad(np.asarray(tile), ((GUTTER, GUTTER), (GUTTER, GUTTER), (0, 0)), mode="edge")
    picture.paste(Image.fromarray(padded), (x, y))
