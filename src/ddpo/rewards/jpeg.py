"""Rewards from the size of the sample as a JPEG file. Paper D.1, F.4."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL.Image import Image as Picture
    from torch import Tensor

QUALITY = 95
"""The JPEG quality of the paper (F.4)."""


def jpeg_compressibility(
    images: Tensor, prompts: list[str], metadata: list[dict[str, Any]], *, quality: int = QUALITY
) -> npt.NDArray[np.float64]:
    """Return `-size_B` in kB, below 0: a smaller file is a higher reward. Paper D.1, F.4."""
    del prompts, metadata
    return -jpeg_size(images, quality)


def jpeg_incompressibility(
    images: Tensor, prompts: list[str], metadata: list[dict[str, Any]], *, quality: int = QUALITY
) -> npt.NDArray[np.float64]:
    """Return `size_B` in kB, above 0: a larger file is a higher reward. Paper D.1, F.4."""
    del prompts, metadata
    return jpeg_size(images, quality)


def jpeg_size(images: Tensor, quality: int = QUALITY) -> npt.NDArray[np.float64]:
    """Return `size_B` in kB (1000 bytes) of images `(B, 3, H, W)` in [0, 1]: Pillow's JPEG, 4:2:0. Paper F.4.

    Raises ValueError when an image holds NaN or an infinity.
    """
    from PIL import Image

    image_BCHW = images.numpy()
    size_B = np.empty(len(image_BCHW), dtype=np.float64)
    for index, image_CHW in enumerate(image_BCHW):
        buffer = io.BytesIO()
        try:
            pixels_HWC = to_uint8(image_CHW[None])[0]
        except ValueError as error:
            raise ValueError(f"sample {index}: {error}") from error
        Image.fromarray(pixels_HWC).save(buffer, "JPEG", quality=quality)
        size_B[index] = buffer.tell() / 1000
    return size_B


def to_uint8(image_BCHW: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.uint8]:
    """Return pixels `(B, H, W, 3)` of images `(B, 3, H, W)` in [0, 1], rounded (never truncated) to 0..255.

    Raises ValueError when an image holds NaN or an infinity.
    """
    if not np.isfinite(image_BCHW).all():
        raise ValueError("the image holds NaN or an infinity")
    levels_BCHW = np.rint(np.clip(image_BCHW, 0.0, 1.0) * 255.0).astype(np.uint8)
    return np.ascontiguousarray(levels_BCHW.transpose(0, 2, 3, 1))


def to_pictures(images: Tensor) -> list[Picture]:
    """Return images `(B, 3, H, W)` in [0, 1] as Pillow's pictures of 8-bit pixels; raises ValueError as `to_uint8`."""
    from PIL import Image

    return [Image.fromarray(pixels_HWC) for pixels_HWC in to_uint8(images.numpy())]
