"""Rewards from the size of the sample as a JPEG file. Paper D.1, F.4."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from ddpo.media.image import to_pictures
from ddpo.rewards.contract import Array

if TYPE_CHECKING:
    from torch import Tensor

QUALITY = 95
"""The JPEG quality of the paper (F.4)."""


def jpeg_compressibility(
    images: Tensor, prompts: list[str], metadata: list[dict[str, Any]], *, quality: int = QUALITY
) -> Array:
    """Return `-size_B` in kB, below 0: a smaller file is a higher reward. Paper D.1, F.4."""
    del prompts, metadata
    return -jpeg_size(images, quality)


def jpeg_incompressibility(
    images: Tensor, prompts: list[str], metadata: list[dict[str, Any]], *, quality: int = QUALITY
) -> Array:
    """Return `size_B` in kB, above 0: a larger file is a higher reward. Paper D.1, F.4."""
    del prompts, metadata
    return jpeg_size(images, quality)


def jpeg_size(images: Tensor, quality: int = QUALITY) -> Array:
    """Return `size_B` in kB (1000 bytes) of images `(B, 3, H, W)` in [0, 1]: Pillow's JPEG, 4:2:0. Paper F.4.

    Raises ValueError when an image holds NaN or an infinity.
    """
    size_B = np.empty(len(images), dtype=np.float64)
    for index, picture in enumerate(to_pictures(images)):
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality)
        size_B[index] = buffer.tell() / 1000
    return size_B
