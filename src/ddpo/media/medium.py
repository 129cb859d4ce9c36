"""What a kind of sample must offer so that rewards can score it and reports can show it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


class Medium(Protocol):
    """A kind of sample, such as pictures or points; `samples` are `(B, ...)`, float32, on the CPU."""

    @property
    def name(self) -> str:
        """The word for one sample in configurations and messages: `image`, `array`."""
        ...

    def as_seen(self, samples: Tensor) -> Tensor:
        """Return what a reward gets: a copy, as a user would see the samples. NaN stays NaN."""
        ...

    def thumbnails(self, samples: Tensor) -> NDArray[np.uint8] | None:
        """Return small pictures `(B, H, W, 3)` for grids and reports; None where there is nothing to see.

        Raises ValueError when a sample holds NaN or an infinity.
        """
        ...

    def diversity(self, samples: Tensor) -> float | None:
        """Return the mean root mean square difference of all pairs of samples; None with fewer than two.

        It falls when a policy collapses onto one sample.
        """
        ...
