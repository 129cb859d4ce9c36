"""When to ask a server again that failed or was busy."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

THRESHOLD = 3
"""Failures in a row after which a server counts as broken."""
LONGEST_PAUSE = 60.0
"""Seconds."""


class CircuitBreaker:
    """Counts a server's failures in a row and says how long to leave it alone.

    Pauses double from `backoff` seconds, times a random factor in [0.5, 1.5] that keeps many clients from returning
    at once. From `THRESHOLD` failures on the circuit is open: a pause is `cooldown` seconds at least, and the one
    request after it decides whether the next follows.
    """

    def __init__(self, backoff: float, cooldown: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._backoff, self._cooldown, self._clock = backoff, cooldown, clock
        self._failures = 0
        self._ready_at = -float("inf")
        self._random = random.Random()  # its own: the run's random numbers stay as they are

    def seconds_left(self) -> float:
        """Return how long to wait before the next request; 0: now."""
        return max(0.0, self._ready_at - self._clock())

    def succeeded(self) -> None:
        """Close the circuit."""
        self._failures = 0

    def failed(self) -> None:
        """Leave the server alone for a while, longer each time."""
        self._failures += 1
        pause = self._doubled(self._failures)
        self.wait(max(pause, self._cooldown) if self._failures >= THRESHOLD else pause)

    def answered_without_scores(self, times: int) -> None:
        """Leave a server alone whose reward failed, the server itself being well, for the `times`-th time in a row."""
        self._failures = 0
        self.wait(self._doubled(times))

    def _doubled(self, times: int) -> float:
        return min(LONGEST_PAUSE, self._backoff * 2.0 ** min(times - 1, 10) * self._random.uniform(0.5, 1.5))

    def wait(self, seconds: float) -> None:
        """Leave the server alone for exactly this long, as it asked."""
        self._ready_at = self._clock() + seconds
