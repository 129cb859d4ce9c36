"""The medium `image`: pictures of 8 bits, what a file or a screen shows of the floats that a model decodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ddpo.media.diversity import diversity

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL.Image import Image as Picture
    from torch import Tensor

LEVELS = 255
"""The highest level of a pixel of 8 bits."""


class Image:
    """Images `(B, 3, H, W)`, float32, of which [0, 1] can be shown."""

    name = "image"

    def as_seen(self, samples: Tensor) -> Tensor:
        """Return `as_shown(samples)`."""
        return as_shown(samples)

    def thumbnails(self, samples: Tensor) -> npt.NDArray[np.uint8]:
        """Return the images' pixels `(B, H, W, 3)`; raises ValueError as `to_uint8`."""
        return to_uint8(samples.detach().numpy())

    def diversity(self, samples: Tensor) -> float | None:
        """Return how the shown pixels differ, on a scale of 0 to 1; None with fewer than two images."""
        return diversity(self.thumbnails(samples))


def as_shown(images: Tensor) -> Tensor:
    """Return a copy of images `(B, 3, H, W)`, float32 in [0, 1], with the pixels of a file: `round(255 x) / 255`.

    So a reward gives the sample the score that the picture in a file has, and that a server gives to the file. NaN
    stays NaN.
    """
    import torch

    shown_BCHW = _levels(images.detach().numpy())
    shown_BCHW /= LEVELS
    return torch.from_numpy(np.ascontiguousarray(shown_BCHW))  # kernels for other strides round differently


def to_uint8(image_BCHW: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.uint8]:
    """Return pixels `(B, H, W, 3)` of images `(B, 3, H, W)` in [0, 1], rounded (never truncated) to 0..255.

    Raises ValueError when an image holds NaN or an infinity.
    """
    if not np.isfinite(image_BCHW).all():
        raise ValueError("the image holds NaN or an infinity")
    return np.ascontiguousarray(_levels(image_BCHW).astype(np.uint8).transpose(0, 2, 3, 1))


def to_pictures(images: Tensor) -> list[Picture]:
    """Return images `(B, 3, H, W)` in [0, 1] as Pillow's pictures of 8-bit pixels; raises ValueError as `to_uint8`."""
    from PIL import Image

    return [Image.fromarray(pixels_HWC) for pixels_HWC in to_uint8(images.numpy())]


def _levels(image_BCHW: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a new array `(B, 3, H, W)` of whole numbers, 0 to 255, in the type of the images."""
    level_BCHW: npt.NDArray[Any] = np.clip(image_BCHW, 0.0, 1.0)
    level_BCHW *= LEVELS
    np.rint(level_BCHW, out=level_BCHW)
    return level_BCHW
