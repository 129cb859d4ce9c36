"""Where the time of an iteration goes."""

from __future__ import annotations

import time


class Stopwatch:
    """Seconds between laps, added up by name."""

    def __init__(self, laps: dict[str, float] | None = None) -> None:
        """Go on adding to `laps`, or begin anew."""
        self.laps = {} if laps is None else laps
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Add the seconds since the last lap to those of `name`."""
        now = time.perf_counter()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._last
        self._last = now
