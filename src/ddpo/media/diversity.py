"""How different pictures are: what falls when a policy collapses onto one picture. Never imports torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def diversity(pixels: NDArray[np.uint8]) -> float | None:
    """Return the mean root mean square difference of all pairs of pictures `(N, H, W, 3)`, pixels on a scale of 0 to 1.

    0: all are the same. Two pictures of independent uniform noise differ by sqrt(1/6) = 0.41. None: fewer than two
    pictures.
    """
    if len(pixels) < 2:
        return None
    value_NP = pixels.reshape(len(pixels), -1).astype(np.float32) / 255
    differences = [
        np.sqrt(np.square(value_NP[index + 1 :] - value_NP[index]).mean(1, dtype=np.float64))
        for index in range(len(value_NP) - 1)
    ]
    return float(np.concatenate(differences).mean())
