"""The progress of a run on the terminal: a live panel, plain lines, or nothing."""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TextIO

import numpy as np

from ddpo.report.curve import NORMAL_95
from ddpo.report.wording import count, duration, number, plain, with_error
from ddpo.runs.record import finite

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

Clock = Callable[[], float]

RECENT = 8
"""The time left comes from the median of this many iterations."""
WORTH_SAYING = 0.1
"""Share of an iteration from which on waiting for rewards is shown."""
_BARS = "▁▂▃▄▅▆▇█"


class Display:
    """What a run reports its progress to, and a context manager that stops on leaving. This one shows nothing."""

    def start(self, total_iterations: int, name: str) -> None:
        """Begin a run called `name`; its iterations are numbered 1 to `total_iterations`."""

    def past(self, metrics: Sequence[Mapping[str, Any]]) -> None:
        """Take in the iterations of a run that goes on: its trend begins with them."""

    def phase(self, name: str, done: int, total: int) -> None:
        """Say that `done` of `total` pieces of the phase (rollout, reward, update ...) are done."""

    def iteration(self, metrics: Mapping[str, Any]) -> None:
        """Report the metrics of the iteration just finished, named as in `docs/metrics.md`."""

    def message(self, text: str) -> None:
        """Say something to the user."""

    def stop(self) -> None:
        """End the display; calling it again does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


QuietDisplay = Display


def make_display(quiet: bool = False) -> Display:
    """Return the display that fits: none when quiet, live on a terminal, plain lines elsewhere."""
    if quiet:
        return QuietDisplay()
    return LiveDisplay() if sys.stdout.isatty() else PlainDisplay()


class PlainDisplay(Display):
    """One line per iteration, for logs: `iteration 3/40  reward -1.842 ± 0.020  clip 0.12  6.3 s  left 3 min 53 s`."""

    def __init__(self, stream: TextIO | None = None, clock: Clock = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._pace = Pace(0, clock)

    def start(self, total_iterations: int, name: str) -> None:
        """Print the run's name and length."""
        self._pace = Pace(total_iterations, self._clock)
        self.message(f"{name}: {count(total_iterations, 'iteration')}")

    def past(self, metrics: Sequence[Mapping[str, Any]]) -> None:
        """Print nothing of them."""
        self._pace.past(metrics)

    def iteration(self, metrics: Mapping[str, Any]) -> None:
        """Print one line."""
        pace = self._pace
        pace.add(metrics)
        parts = [f"iteration {pace.finished}/{pace.total}"]
        if finite(metrics.get("reward/mean")) is not None:
            parts.append(f"reward {plain(with_error(*pace.rewards[-1]))}")
        if (clip := finite(metrics.get("clip_fraction"))) is not None:
            parts.append(f"clip {clip:.2f}")
        self.message("  ".join([*parts, pace.last, pace.left]))

    def message(self, text: str) -> None:
        """Print one line."""
        stream = self._stream or sys.stdout
        encoding = getattr(stream, "encoding", None) or "utf-8"
        try:
            text.encode(encoding)
        except UnicodeEncodeError:
            text = text.replace("±", "+-").encode(encoding, "replace").decode(encoding)
        stream.write(f"{text}\n")
        stream.flush()


class LiveDisplay(Display):
    """One panel that stays in place: bars of the run and of its phase, the reward with its trend, time left."""

    def __init__(self, console: Console | None = None, clock: Clock = time.monotonic) -> None:
        from rich.console import Console

        self._console, self._clock = console or Console(), clock
        self._live: Live | None = None

    def start(self, total_iterations: int, name: str) -> None:
        """Show the panel."""
        from rich.console import Group
        from rich.live import Live
        from rich.panel import Panel
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bars
        from rich.text import Text

        self.stop()
        self._pace = Pace(total_iterations, self._clock)
        name_column, note_column = TextColumn("{task.description}"), TextColumn("{task.fields[note]}")
        self._bars = Bars(name_column, BarColumn(30), MofNCompleteColumn(), note_column, console=self._console)
        self._run = self._bars.add_task("iteration", total=total_iterations, note="")
        self._phase = self._bars.add_task("", visible=False, note="")
        self._reward = Text()
        panel = Panel(Group(self._bars, self._reward), title=name, title_align="left", expand=False, padding=(0, 1))
        self._live = Live(panel, console=self._console, refresh_per_second=4)
        self._live.start()

    def past(self, metrics: Sequence[Mapping[str, Any]]) -> None:
        """Begin the bar and the trend with them."""
        if self._live is not None and metrics:
            self._pace.past(metrics)
            self._bars.update(self._run, completed=self._pace.finished)
            self._show_reward()

    def phase(self, name: str, done: int, total: int) -> None:
        """Move the bar of the phase; the panel redraws itself four times a second."""
        if self._live is not None:
            self._bars.update(self._phase, description=name, completed=done, total=max(total, 1), visible=True)

    def iteration(self, metrics: Mapping[str, Any]) -> None:
        """Move the bar of the run and extend the trend."""
        if self._live is None:
            return
        pace = self._pace
        pace.add(metrics)
        self._bars.update(self._run, completed=pace.finished, note=f"{pace.left}, {pace.last} an iteration")
        self._bars.update(self._phase, visible=False)
        self._show_reward()

    def _show_reward(self) -> None:
        rewards = self._pace.rewards
        if rewards:
            self._reward.plain = f"reward {sparkline([mean for mean, _ in rewards], 30)} {self._pace.trend()}"

    def message(self, text: str) -> None:
        """Print above the panel."""
        self._console.print(text, markup=False, highlight=False)

    def stop(self) -> None:
        """Draw the panel a last time, without a phase, and leave it on the screen."""
        if self._live is not None:
            self._bars.update(self._phase, visible=False)
            live, self._live = self._live, None
            live.stop()


class Pace:
    """What the displays know of a run: rewards and seconds of its iterations so far."""

    def __init__(self, total: int, clock: Clock) -> None:
        self.total, self.finished = total, 0
        self.rewards: list[tuple[float, float]] = []
        """Means and their standard errors; 0 where they are not known."""
        self._clock, self._ended, self._wait = clock, clock(), 0.0
        self._seconds: list[float] = []

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Take in the metrics of an iteration that has just ended."""
        now = self._clock()
        self._seconds.append(now - self._ended)
        self._ended = now
        self._wait = finite(metrics.get("time/reward")) or 0.0
        self._count(metrics)

    def past(self, metrics: Sequence[Mapping[str, Any]]) -> None:
        """Take in iterations of an earlier session, whose seconds say nothing of this one."""
        for row in metrics:
            self._count(row)

    def _count(self, metrics: Mapping[str, Any]) -> None:
        self.finished = int(finite(metrics.get("iteration")) or self.finished + 1)
        if (mean := finite(metrics.get("reward/mean"))) is not None:
            self.rewards.append((mean, finite(metrics.get("reward/standard_error")) or 0.0))

    @property
    def last(self) -> str:
        """The seconds of the last iteration, and how long it waited for rewards where that matters."""
        seconds = self._seconds[-1]
        waited = f" ({duration(self._wait)} waiting for rewards)" if self._wait > WORTH_SAYING * seconds else ""
        return f"{duration(seconds)}{waited}"

    @property
    def left(self) -> str:
        """How long the remaining iterations take."""
        remaining = max(0, self.total - self.finished)
        return f"left {duration(statistics.median(self._seconds[-RECENT:]) * remaining)}" if remaining else "done"

    def trend(self) -> str:
        """Return the newest reward and its change since the first iteration, where that is more than chance."""
        (first, first_error), (newest, error) = self.rewards[0], self.rewards[-1]
        change = newest - first
        clear = abs(change) > NORMAL_95 * math.hypot(error, first_error)
        told = f"{'▲' if change > 0 else '▼'} {number(abs(change), 3)} since the start" if clear else "as at the start"
        return f"{with_error(newest, error)}  {told}"


def sparkline(values: Sequence[float], width: int) -> str:
    """Return the values as a line of bars; more than `width` of them are averaged in equal parts."""
    means = [float(part.mean()) for part in np.array_split(np.array(values), min(width, len(values)))]
    low, span = min(means), (max(means) - min(means)) or 1.0
    return "".join(_BARS[round((value - low) / span * (len(_BARS) - 1))] for value in means)
