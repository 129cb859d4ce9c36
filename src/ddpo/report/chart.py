"""Line charts as inline SVG for any width and theme, drawn by assets/page.html.

Shapes lie on a square of `SIZE` units that the browser stretches; strokes keep their width, and text stands beside
the SVG as HTML, so that it is never stretched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from ddpo.report.wording import number
from ddpo.runs.record import Floats

SIZE = 2000
"""Units of the drawing's sides: a shape is placed to half a pixel and better."""
POINTS = 400
"""Points of a line at most, about as many as a chart has pixels."""
_TICKS = 4
_LOG_FROM = 20
"""A logarithmic axis is used when the largest positive value is this many times the smallest."""


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    name: str
    style: str
    """CSS class that gives the colour: `run-1`, `bucket-3`."""
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    """Lower edge of the band around the line."""
    high: Sequence[float] | None = None
    dots: bool = False
    """Faint dots instead of a line; they are left out of the legend."""

    @property
    def course(self) -> str:
        """The first and the last value in words."""
        return " → ".join(number(value, 3) for value in (self.y if len(self.y) == 1 else (self.y[0], self.y[-1])))

    @property
    def columns(self) -> list[Floats]:
        """The values of the line and, where it has one, of its band."""
        return [np.asarray(part) for part in (self.y, self.low, self.high) if part is not None]


@dataclass(frozen=True)
class Chart:
    """What is to be drawn."""

    title: str
    note: str
    """One sentence on what is shown."""
    x_label: str
    y_label: str
    lines: list[Line]
    log: bool = False
    """Whether a logarithmic axis is wanted; values that are not positive lie on its lower edge."""
    from_zero: bool = False
    """Whether the axis of values begins at 0."""
    large: bool = False


@dataclass(frozen=True)
class Drawing:
    """A chart ready to be drawn: shapes in units, ticks in percent of the plot, from the left and from the bottom."""

    chart: Chart
    shapes: list[tuple[Line, str, str]]
    """Each line with the path data of its points and of its band, which may be empty."""
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    is_log: bool

    @property
    def summary(self) -> str:
        """The chart in words, for those who do not see it."""
        chart, told = self.chart, [f"{line.name}: {line.course}" for line, *_ in self.shapes if not line.dots]
        return f"Line chart, {chart.title}, {chart.y_label} against {chart.x_label}. {'; '.join(told)}."


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    log: bool = False
    """Whether it is logarithmic: `low` and `high` are exponents of ten then."""

    def place(self, value_N: Floats) -> Floats:
        """Return the places of values, 0 to 1; outside values lie on the edge."""
        scaled_N = np.log10(np.maximum(value_N, 10.0**self.low)) if self.log else value_N
        return np.clip((scaled_N - self.low) / (self.high - self.low), 0, 1)

    def ticks(self) -> list[tuple[float, str]]:
        """Return place, in percent, and text of some round values."""
        values = self._powers_of_ten() if self.log else self._round_values()
        return [(100 * float(self.place(np.array(value))), number(value)) for value in values]

    def _powers_of_ten(self) -> list[float]:
        exponents = range(math.ceil(self.low), math.floor(self.high) + 1)
        return [10.0**exponent for exponent in exponents[:: 1 + len(exponents) // (_TICKS + 2)]]

    def _round_values(self) -> list[float]:
        raw = (self.high - self.low) / _TICKS
        if raw < 1e-300:  # of the smallest numbers there are
            return [self.low]
        power = 10.0 ** math.floor(math.log10(raw))
        step = power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def draw(chart: Chart) -> Drawing | None:
    """Lay a chart out; None where it has no point to show."""
    lines = [_thinned(line) for line in chart.lines if len(line.x)]
    if not lines:
        return None
    x_N = np.concatenate([[0.0], *(line.x for line in lines)])  # from 0 on, unless a file says otherwise
    x_axis = _Axis(x_N.min(), x_N.max() if x_N.max() > x_N.min() else x_N.min() + 1)
    y_axis = _value_axis(chart, np.concatenate([part for line in lines for part in line.columns]))
    shapes = [(line, *_paths(line, x_axis, y_axis)) for line in lines]
    return Drawing(chart, shapes, x_axis.ticks(), y_axis.ticks(), y_axis.log)


def _thinned(line: Line) -> Line:
    """Return the line with at most `POINTS` points: of every stretch the lowest and the highest, so that peaks stay.

    Of dots some are taken evenly: their extremes would be a cloud without a middle.
    """
    last = len(line.x) - 1
    if last < POINTS:
        return line
    places = np.linspace(0, last, POINTS).astype(int).tolist()
    if not line.dots:
        y_N = np.asarray(line.y)
        edges = np.linspace(1, last, POINTS // 2).astype(int)  # the first and the last point stay
        peaks = {a + int(pick(y_N[a:b])) for a, b in pairwise(edges) for pick in (np.argmin, np.argmax)}
        places = sorted({0, last} | peaks)
    x, y, *band = (np.asarray(part)[places].tolist() for part in (line.x, *line.columns))
    return replace(line, x=x, y=y, **dict(zip(("low", "high"), band, strict=False)))


def _value_axis(chart: Chart, value_N: Floats) -> _Axis:
    positive_N = value_N[value_N > 0]
    if chart.log and len(positive_N) and positive_N.max() > _LOG_FROM * positive_N.min():
        return _Axis(math.log10(positive_N.min()) - 0.15, math.log10(positive_N.max()) + 0.15, log=True)
    low, high = float(value_N.min()), float(value_N.max())
    if chart.from_zero and low >= 0:
        return _Axis(0.0, 1.06 * high or 1.0)
    margin = 0.07 * (high - low) or 0.1 * abs(high) or 1.0
    return _Axis(low - margin, high + margin)


def _paths(line: Line, x_axis: _Axis, y_axis: _Axis) -> tuple[str, str]:
    """Return the path data of a line's points, dots where it is one, and of its band."""
    x_N = SIZE * x_axis.place(np.asarray(line.x))
    columns = [SIZE * (1 - y_axis.place(y_N)) for y_N in line.columns]
    points, *band = ([f"{x:.0f} {y:.0f}" for x, y in zip(x_N, y_N, strict=True)] for y_N in columns)
    if line.dots or len(points) == 1:
        return " ".join(f"M{point}h0" for point in points), ""
    around = f"M{'L'.join([*band[1], *reversed(band[0])])}Z" if band else ""
    return f"M{'L'.join(points)}", around
