"""How different samples are: what falls when a policy collapses onto one of them. Never imports torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def diversity(pixels: NDArray[np.uint8]) -> float | None:
    """Return the `mean_difference` of pictures `(N, H, W, 3)`, pixels on a scale of 0 to 1.

    Two pictures of independent uniform noise differ by sqrt(1/6) = 0.41.
    """
    return mean_difference(pixels.astype(np.float32) / 255)


def mean_difference(samples: NDArray[np.floating[Any]]) -> float | None:
    """Return the mean root mean square difference of all pairs of samples `(N, ...)`, in their own unit.

    0: all are the same. None: fewer than two samples.
    """
    if len(samples) < 2:
        return None
    value_NP = samples.reshape(len(samples), -1)
    differences = [
        np.sqrt(np.square(value_NP[index + 1 :] - value_NP[index]).mean(1, dtype=np.float64))
        for index in range(len(value_NP) - 1)
    ]
    return float(np.concatenate(differences).mean())
