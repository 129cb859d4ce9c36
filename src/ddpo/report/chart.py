"""Line charts as inline SVG that any width, theme or printer can show: places in percent, drawn by assets/page.html.

Shapes lie on a square of `SIZE` units that the browser stretches; strokes keep their width, and text stands beside
the SVG as HTML, so that it is never stretched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ddpo.report.wording import number

SIZE = 1000
"""Units of the drawing's sides."""
MANY_POINTS = 80
"""Lines of more points are drawn without dots."""
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
    shape: Literal["points", "line", "dots"] = "points"
    """A line with a dot at each point, without dots, or faint dots without a line."""


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
    reference: tuple[float, str] | None = None
    """A level to compare with, and its name."""
    large: bool = False


@dataclass(frozen=True)
class PlacedLine:
    """A line in units of the drawing, as SVG path data."""

    name: str
    style: str
    path: str
    dots: str
    band: str
    faint: bool


@dataclass(frozen=True)
class PlacedChart:
    """A chart ready to be drawn: all places in percent of the plot, x from the left, y from the bottom."""

    chart: Chart
    lines: list[PlacedLine]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    reference: float | None
    is_log: bool
    summary: str
    """The chart in words, for those who do not see it."""
    points: list[dict[str, Any]] = field(default_factory=list)
    """For the readout: places with the values of every line there."""

    @property
    def all_zero(self) -> bool:
        """Whether there is nothing but zeros to show."""
        return not any(value for line in self.chart.lines for value in line.y)

    @property
    def y_width(self) -> int:
        """Characters that the labels of the axis of values need."""
        return max((len(text) for _, text in self.y_ticks), default=1)


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    log: bool = False

    def place(self, value: float) -> float:
        """Return the place of a value, 0 to 1; outside values lie on the edge."""
        if self.log:
            low, high = math.log10(self.low), math.log10(self.high)
            value = math.log10(max(value, self.low))
        else:
            low, high = self.low, self.high
        return min(1.0, max(0.0, (value - low) / (high - low)))


def place(chart: Chart) -> PlacedChart | None:
    """Lay a chart out; None where it has no point to show."""
    lines = [line for line in chart.lines if len(line.x)]
    if not lines:
        return None
    x_axis = _place_axis(lines)
    y_axis = _value_axis(chart, lines)
    y_values = _log_ticks(y_axis) if y_axis.log else _ticks(y_axis.low, y_axis.high)
    return PlacedChart(
        chart,
        [_place_line(line, x_axis, y_axis) for line in lines],
        [(100 * x_axis.place(value), number(value)) for value in _ticks(x_axis.low, x_axis.high)],
        [(100 * y_axis.place(value), number(value)) for value in y_values],
        100 * y_axis.place(chart.reference[0]) if chart.reference is not None else None,
        y_axis.log,
        _summary(chart, lines),
        _points(chart, lines, x_axis, y_axis),
    )


def _place_axis(lines: Sequence[Line]) -> _Axis:
    """Return the axis of places: from 0 on, unless a file says otherwise."""
    low, high = min(0.0, *(min(line.x) for line in lines)), max(0.0, *(max(line.x) for line in lines))
    return _Axis(low, high if high > low else low + 1.0)


def _value_axis(chart: Chart, lines: Sequence[Line]) -> _Axis:
    values = [value for line in lines for part in (line.y, line.low or (), line.high or ()) for value in part]
    values += [chart.reference[0]] if chart.reference is not None else []
    positive = [value for value in values if value > 0]
    if chart.log and positive and max(positive) > _LOG_FROM * min(positive):
        return _Axis(min(positive) / 1.5, max(positive) * 1.5, log=True)
    low, high = min(values), max(values)
    if chart.from_zero and low >= 0:
        return _Axis(0.0, 1.06 * high or 1.0)
    margin = 0.07 * (high - low) or 0.1 * abs(high) or 1.0
    return _Axis(low - margin, high + margin)


def _ticks(low: float, high: float) -> list[float]:
    """Return about `_TICKS` round values between `low` and `high`."""
    raw = (high - low) / _TICKS
    if raw == 0:  # of the smallest number there is
        return [low]
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    ticks = [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]
    return [float(f"{tick:.12g}") for tick in ticks]


def _log_ticks(axis: _Axis) -> list[float]:
    """Return powers of ten inside the axis, every second or third where there are many."""
    first, last = math.ceil(math.log10(axis.low)), math.floor(math.log10(axis.high))
    stride = max(1, math.ceil((last - first + 1) / (_TICKS + 1)))
    return [10.0**exponent for exponent in range(first, last + 1, stride)] or [math.sqrt(axis.low * axis.high)]


def _place_line(line: Line, x_axis: _Axis, y_axis: _Axis) -> PlacedLine:
    xs = [_units(x_axis.place(value)) for value in line.x]
    points = [f"{x} {_units(1 - y_axis.place(y))}" for x, y in zip(xs, line.y, strict=True)]
    band = ""
    if line.low is not None and line.high is not None and len(xs) > 1:
        upper = [f"{x} {_units(1 - y_axis.place(y))}" for x, y in zip(xs, line.high, strict=True)]
        lower = [f"{x} {_units(1 - y_axis.place(y))}" for x, y in zip(xs, line.low, strict=True)]
        band = f"M{' L'.join([*upper, *reversed(lower)])} Z"
    faint = line.shape == "dots"
    with_dots = faint or (line.shape == "points" and len(points) <= MANY_POINTS) or len(points) == 1
    return PlacedLine(
        line.name,
        line.style,
        "" if faint else f"M{' L'.join(points)}",
        " ".join(f"M{point} h0" for point in points) if with_dots else "",
        band,
        faint,
    )


def _units(part: float) -> str:
    return f"{SIZE * part:.1f}".rstrip("0").rstrip(".")


def _points(chart: Chart, lines: Sequence[Line], x_axis: _Axis, y_axis: _Axis) -> list[dict[str, Any]]:
    places: dict[float, list[dict[str, Any]]] = {}
    for line in lines:
        for index, (x, y) in enumerate(zip(line.x, line.y, strict=True)):
            text = number(y)
            if line.low is not None and line.high is not None:
                text += f" ({number(line.low[index], 3)} to {number(line.high[index], 3)})"
            entry = {"name": line.name, "style": line.style, "text": text, "y": round(100 * y_axis.place(y), 2)}
            places.setdefault(x, []).append(entry)
    return [
        {"x": round(100 * x_axis.place(x), 2), "head": f"{number(x, 9)} {chart.x_label}", "rows": places[x]}
        for x in sorted(places)
    ]


def _summary(chart: Chart, lines: Sequence[Line]) -> str:
    """Return title and, for each line, its first and last value."""
    told = [
        f"{line.name}: {number(line.y[0])} at {number(line.x[0])}, {number(line.y[-1])} at {number(line.x[-1])}"
        for line in lines
        if line.shape != "dots"
    ]
    return f"Line chart, {chart.title}, {chart.y_label} against {chart.x_label}. {'; '.join(told)}."
