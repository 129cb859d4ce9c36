"""Where lines, bands and ticks of a chart lie."""

from __future__ import annotations

import re

import numpy as np
import pytest

from ddpo.report.chart import POINTS, SIZE, Chart, Line, draw
from ddpo.report.wording import MINUS


def drawn(*lines, **options):
    drawing = draw(Chart("title", "note", "queries", "reward", list(lines), **options))
    assert drawing is not None
    return drawing


def points(path):
    """Return the points of a path, 0 to 1 from the left and from the bottom."""
    pairs = re.findall(r"(-?\d+) (-?\d+)", path)
    return [(float(x) / SIZE, 1 - float(y) / SIZE) for x, y in pairs]


def test_points_and_band_lie_where_their_values_are():
    line = Line("run", "run-1", [0, 50, 100], [0.0, 1.0, 2.0], low=[0.0, 0.5, 1.0], high=[0.0, 1.5, 3.0])
    drawing = drawn(line, from_zero=True)
    ((_, path, band),) = drawing.shapes
    # the axis of values reaches from 0 to 3.18 = 1.06 * 3
    np.testing.assert_allclose(points(path), [(0, 0), (0.5, 1 / 3.18), (1, 2 / 3.18)], atol=0.6 / SIZE)
    edges = [(0, 0), (0.5, 1.5), (1, 3), (1, 1), (0.5, 0.5), (0, 0)]
    np.testing.assert_allclose(points(band), [(x, y / 3.18) for x, y in edges], atol=0.6 / SIZE)
    assert drawing.y_ticks == [(pytest.approx(100 * value / 3.18), str(value)) for value in (0, 1, 2, 3)]
    assert [text for _, text in drawing.x_ticks] == ["0", "25", "50", "75", "100"]
    assert "run: 0 → 2" in drawing.summary


def test_a_logarithmic_axis_is_used_where_values_span_it_and_zeros_lie_below():
    drawing = drawn(Line("a", "x", [1, 2, 3, 4], [0.0, 1e-6, 1e-4, 1e-2]), log=True)
    assert drawing.is_log
    zero, *others = [y for _, y in points(drawing.shapes[0][1])]
    assert zero == 0
    assert others[1] - others[0] == pytest.approx(others[2] - others[1], abs=2 / SIZE)  # equal factors, equal steps
    assert [text for _, text in drawing.y_ticks] == [f"1e{MINUS}06", f"1e{MINUS}05", "0.0001", "0.001", "0.01"]
    assert not drawn(Line("a", "x", [1, 2], [1.0, 2.0]), log=True).is_log


@pytest.mark.parametrize("values", [[0.0], [3.0], [-2.0, -2.0], [1e-12, 2e-12], [1e12, 1e12 + 1], [-1e100, 1e100],
                                    [0.0, 5e-324]])  # fmt: skip
@pytest.mark.parametrize("first", [-8, 0])
@pytest.mark.parametrize("options", [{}, {"from_zero": True}, {"log": True}])
def test_any_values_have_an_axis(values, first, options):
    drawing = drawn(Line("a", "x", list(range(first, first + len(values))), values), **options)
    assert 1 <= len(drawing.y_ticks) <= 8
    assert all(0 <= at <= 100 for at, _ in drawing.y_ticks + drawing.x_ticks)
    assert all(0 <= value <= 1 for pair in points(drawing.shapes[0][1]) for value in pair)


def test_long_lines_are_thinned_and_keep_their_peaks():
    y = np.sin(np.arange(5000) / 300)
    y[[1234, 4321]] = 9, -9
    drawing = drawn(Line("a", "x", list(range(5000)), y.tolist(), (y - 1).tolist(), (y + 1).tolist()))
    line, path, band = drawing.shapes[0]
    assert len(line.x) <= POINTS
    assert (line.x[0], line.x[-1]) == (0, 4999)
    assert {9.0, -9.0} <= set(line.y)
    assert all(line.y[index] == y[place] for index, place in enumerate(line.x))
    assert len(points(band)) == 2 * len(points(path)) == 2 * len(line.x)


def test_no_points_no_chart():
    assert draw(Chart("", "", "", "", [])) is None
    assert draw(Chart("", "", "", "", [Line("a", "x", [], [])])) is None
