"""The progress of a run on the terminal: a live panel, plain lines, or nothing."""

from __future__ import annotations

import itertools
import math
import numbers
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TextIO

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.table import Table

Clock = Callable[[], float]

RECENT = 8
"""The speed and the time left come from the median of this many iterations."""
CLEAR = 2.0
"""A trend is shown as one when it exceeds this many standard errors of the difference."""
WORTH_SAYING = 0.1
"""Share of an iteration from which on waiting for rewards is shown."""
_BARS = "▁▂▃▄▅▆▇█"


class Display(Protocol):
    """What a run reports its progress to; also a context manager that stops on leaving."""

    def start(self, total_iterations: int, name: str) -> None:
        """Begin a run called `name`; its iterations are numbered 1 to `total_iterations`."""

    def phase(self, name: str, done: int, total: int) -> None:
        """Say that `done` of `total` pieces of the phase (rollout, reward, update ...) are done."""

    def iteration(self, metrics: Mapping[str, Any]) -> None:
        """Report the metrics of the iteration just finished, named as in `docs/metrics.md`."""

    def message(self, text: str) -> None:
        """Say something to the user."""

    def stop(self) -> None:
        """End the display; calling it again does nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def make_display(quiet: bool = False) -> Display:
    """Return the display that fits: none when quiet, live on a terminal, plain lines elsewhere."""
    if quiet:
        return QuietDisplay()
    return LiveDisplay() if sys.stdout.isatty() else PlainDisplay()


class QuietDisplay:
    """Shows nothing."""

    def start(self, total_iterations: int, name: str) -> None:
        """Do nothing."""

    def phase(self, name: str, done: int, total: int) -> None:
        """Do nothing."""

    def iteration(self, metrics: Mapping[str, Any]) -> None:
        """Do nothing."""

    def message(self, text: str) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class PlainDisplay(QuietDisplay):
    """One line per iteration, for logs: `iteration 3/40  reward -1.842 ± 0.020  clip 0.12  6.3 s  left 3:51`."""

    def __init__(self, stream: TextIO | None = None, clock: Clock = time.monotonic) -> None:
        self._stream = stream
        self._progress = Progress(0, clock)

    def start(self, total_iterations: int, name: str) -> None:
        """Print the run's name and length."""
        self._progress = Progress(total_iterations, self._progress.clock)
        self.message(f"{name}: {total_iterations} iteration{'s' if total_iterations != 1 else ''}")

    def iteration(self, metrics: Mapping[str, Any]) -> None:
        """Print one line."""
        progress = self._progress
        progress.add(metrics)
        parts = [f"iteration {progress.finished}/{progress.total}"]
        if (mean := _number(metrics, "reward/mean")) is not None:
            parts.append(f"reward {with_error(mean, _number(metrics, 'reward/standard_error'))}")
        if (clip := _number(metrics, "clip_fraction")) is not None:
            parts.append(f"clip {clip:.2f}")
        parts += [f"{progress.seconds[-1]:.1f} s{progress.wait_in_words()}", f"left {duration(progress.left())}"]
        self.message("  ".join(parts))

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


class LiveDisplay(QuietDisplay):
    """One panel that stays in place: iteration, phase, reward with its trend, samples/s, time left."""

    def __init__(self, console: Console | None = None, clock: Clock = time.monotonic) -> None:
        from rich.console import Console

        self._console = console or Console()
        self._live: Live | None = None
        self._progress = Progress(0, clock)
        self._name = ""
        self._phase = ("", 0, 0)

    def start(self, total_iterations: int, name: str) -> None:
        """Show the panel."""
        from rich.live import Live

        self.stop()
        self._progress = Progress(total_iterations, self._progress.clock)
        self._name = name
        self._phase = ("", 0, 0)
        self._live = Live(get_renderable=self.render, console=self._console, refresh_per_second=4)
        self._live.start()

    def phase(self, name: str, done: int, total: int) -> None:
        """Move the bar of the phase; the panel redraws itself four times a second."""
        self._phase = (name, done, total)

    def iteration(self, metrics: Mapping[str, Any]) -> None:
        """Move the bar of the run and extend the trend."""
        self._progress.add(metrics)
        self._phase = ("", 0, 0)

    def message(self, text: str) -> None:
        """Print above the panel."""
        self._console.print(text, markup=False, highlight=False)

    def stop(self) -> None:
        """Draw the panel a last time and leave it on the screen."""
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()

    def render(self) -> RenderableType:
        """Return the panel as it stands."""
        from rich.panel import Panel
        from rich.table import Table
        from rich.text import Text

        progress = self._progress
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        _add_bar(table, "iteration", progress.finished, progress.total, f"left {duration(progress.left())}")
        name, done, total = self._phase
        if name:
            _add_bar(table, name, done, total, "")
        elif progress.finished < progress.total:
            table.add_row("…")
        else:
            table.add_row("done")
        if progress.means:
            mean, error = progress.means[-1], progress.errors[-1]
            trend = Text(sparkline(progress.means, 30), style="cyan")
            table.add_row("reward", trend, Text.assemble(with_error(mean, error), "  ", _arrow(progress)))
        if (speed := progress.samples_per_second()) is not None:
            seconds = f"{progress.seconds[-1]:.1f} s an iteration{progress.wait_in_words()}"
            table.add_row("speed", f"{speed:.1f} samples/s", seconds)
        return Panel(table, title=self._name, title_align="left", expand=False, padding=(0, 1))


class Progress:
    """What the displays know of a run: rewards, seconds and samples of its iterations so far."""

    def __init__(self, total: int, clock: Clock) -> None:
        self.total = total
        self.clock = clock
        self.finished = 0
        self.means: list[float] = []
        self.errors: list[float | None] = []
        self.seconds: list[float] = []
        self.samples: list[float | None] = []
        self.wait = 0.0
        """Seconds that the last iteration waited for rewards."""
        self._queries: float | None = None
        self._last = clock()

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Take in the metrics of an iteration that has just ended."""
        now = self.clock()
        self.seconds.append(now - self._last)
        self._last = now
        self.wait = _number(metrics, "time/reward") or 0.0
        number = _number(metrics, "iteration")
        self.finished = int(number) if number is not None else self.finished + 1
        if (mean := _number(metrics, "reward/mean")) is not None:
            self.means.append(mean)
            self.errors.append(_number(metrics, "reward/standard_error"))
        queries = _number(metrics, "reward_queries")
        before = self._queries if self._queries is not None else (0.0 if self.finished <= 1 else None)
        self.samples.append(queries - before if queries is not None and before is not None else None)
        self._queries = queries

    def wait_in_words(self) -> str:
        """Return how long the last iteration waited for rewards, in brackets; nothing where that hardly matters."""
        return f" ({self.wait:.1f} waiting for rewards)" if self.wait > WORTH_SAYING * self.seconds[-1] else ""

    def left(self) -> float | None:
        """Return the seconds that the remaining iterations take, or None before the first has ended."""
        if self.finished >= self.total:
            return 0.0
        if not self.seconds:
            return None
        return statistics.median(self.seconds[-RECENT:]) * (self.total - self.finished)

    def samples_per_second(self) -> float | None:
        """Return the samples drawn, scored and trained on per second of late, or None when unknown."""
        known = [(n, s) for n, s in zip(self.samples, self.seconds, strict=True) if n is not None and s > 0]
        return statistics.median(n / s for n, s in known[-RECENT:]) if known else None


def sparkline(values: Sequence[float], width: int) -> str:
    """Return the values as a line of bars; more than `width` of them are averaged in equal parts."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    if len(finite) > width:
        edges = [index * len(finite) // width for index in range(width + 1)]
        finite = [statistics.fmean(finite[a:b]) for a, b in itertools.pairwise(edges)]
    low, high = min(finite), max(finite)
    if high == low:
        return _BARS[0] * len(finite)
    return "".join(_BARS[round((value - low) / (high - low) * (len(_BARS) - 1))] for value in finite)


def duration(seconds: float | None) -> str:
    """Return seconds as `3:51` or `1:02:03`, or `-:--` for None."""
    if seconds is None:
        return "-:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def with_error(mean: float, error: float | None) -> str:
    """Return `-1.842 ± 0.020`: the error to two significant digits, the mean to the same decimals."""
    if error is None or not math.isfinite(error) or error <= 0:
        return f"{mean:.4g}"
    decimals = min(8, max(0, 1 - math.floor(math.log10(error))))
    return f"{mean:.{decimals}f} ± {error:.{decimals}f}"


def _arrow(progress: Progress) -> tuple[str, str]:
    """Return the change of the reward since the first iteration with its arrow, and a style."""
    change = progress.means[-1] - progress.means[0]
    error = math.hypot(progress.errors[-1] or 0.0, progress.errors[0] or 0.0)
    if abs(change) <= CLEAR * error or change == 0:
        return "→ as at the start", "dim"
    text = f"{change:+.3g} since the start"
    return (f"▲ {text}", "bold green") if change > 0 else (f"▼ {text}", "bold red")


def _add_bar(table: Table, name: str, done: int, total: int, note: str) -> None:
    from rich.progress_bar import ProgressBar

    table.add_row(name, ProgressBar(total=max(total, 1), completed=done, width=30), f"{done}/{total}  {note}".rstrip())


def _number(metrics: Mapping[str, Any], key: str) -> float | None:
    value = metrics.get(key)
    return float(value) if isinstance(value, numbers.Real) else None
