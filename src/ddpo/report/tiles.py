"""The tiles of the page: each sample as an image in the page itself, small enough that a page of many stays a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ddpo.runs.record import Tiles

if TYPE_CHECKING:
    from PIL.Image import Image

BUDGET = 9_000_000
"""Bytes for all tiles of a page; base64 makes 12 MB of them."""
LARGEST = 320
"""Pixels of the longer side of a tile that is re-encoded; no tile is shown larger."""
SMALLEST = 48
"""Tiles are not shrunk below this many pixels, whatever the budget."""
_LOSSLESS_BYTES_PER_PIXEL = 2.0
_SHRINK = 0.75


def read_tiles(tiles: Tiles, indices: Sequence[int]) -> list[Image]:
    """Return the tiles at `indices` of a sheet.

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


def encode(frames: Sequence[Sequence[Image]], budget: int = BUDGET) -> list[list[str]]:
    """Return the data URI of every tile, together about `budget` bytes at most.

    Few pixels stay as they are; many are shrunk, each by itself, and encoded lossily.
    """
    sizes = [tile.size for tiles in frames for tile in tiles]
    longest = max((side for size in sizes for side in size), default=1)
    pixels = sum(width * height for width, height in sizes)
    lossless = pixels * _LOSSLESS_BYTES_PER_PIXEL <= budget and longest <= LARGEST
    limit = min(LARGEST, longest)
    while True:
        encoded = [[_encoded(tile, limit, lossless) for tile in tiles] for tiles in frames]
        total = sum(len(uri) * 3 // 4 for tiles in encoded for uri in tiles)
        if lossless or total <= budget or limit <= SMALLEST:
            return encoded
        limit = max(SMALLEST, int(_SHRINK * limit))


def _encoded(tile: Image, limit: int, lossless: bool) -> str:
    """Return the data URI of a tile whose longer side is to have `limit` pixels at most."""
    small, buffer = tile.copy(), io.BytesIO()
    small.thumbnail((limit, limit))
    kind = "png" if lossless else "jpeg"
    small.save(buffer, kind, quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
