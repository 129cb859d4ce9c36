"""Pictures on the way: 8-bit PNG files in base64, opened as if they came from an enemy."""

from __future__ import annotations

import base64
import io
import warnings
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL.Image import Image

_MODES = ("RGB", "L", "P", "1")
"""Pillow's modes that become RGB without a choice: 16 bits and transparency would need one."""


class PngError(ValueError):
    """What was sent is not a picture that can be scored."""


def to_png(pixels_HWC: npt.NDArray[np.uint8]) -> str:
    """Return pixels `(H, W, 3)` as a PNG file in base64; lossless, compressed quickly rather than well."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels_HWC).save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def open_png(text: str, max_pixels: int) -> Image:
    """Return the picture of a PNG file in base64, its header read and its pixels not yet.

    So a small file that would unpack to gigabytes is refused before it is unpacked.

    Raises:
        PngError: not base64, not a PNG, of another kind than 8-bit RGB or grey, or with too many pixels.
    """
    from PIL import Image

    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:  # also binascii's
        raise PngError("the image is not base64: send a PNG file in base64, not a path or address") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels decides
            picture = Image.open(io.BytesIO(data), formats=["PNG"])
    except Image.DecompressionBombError:
        raise PngError(f"the image has more than the {max_pixels} pixels allowed") from None
    except Exception:  # Pillow raises many kinds on files that are made to break it
        raise PngError("the image is not a PNG file: send an 8-bit PNG in base64") from None
    if picture.width * picture.height > max_pixels:
        raise PngError(f"the image has {picture.width} x {picture.height} pixels, more than the {max_pixels} allowed")
    if picture.mode not in _MODES:
        raise PngError(f"the image is a PNG of kind {picture.mode}: send 8-bit RGB or grey without transparency")
    return picture


def pixels_of(picture: Image) -> npt.NDArray[np.uint8]:
    """Return the pixels `(H, W, 3)` of an opened picture.

    Raises:
        PngError: the file is cut short or damaged.
    """
    try:
        return np.asarray(picture.convert("RGB"))
    except Exception:  # Pillow raises many kinds on files that are made to break it
        raise PngError("the PNG file is cut short or damaged") from None
