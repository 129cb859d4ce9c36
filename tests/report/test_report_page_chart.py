"""Where lines, bands and ticks of a chart lie, and what its numbers look like."""

from __future__ import annotations

import re

import pytest

from ddpo.report.chart import Chart, Line, place
from ddpo.report.curve import MINUS
from ddpo.report.wording import alike, column_decimals, count, duration, fixed, number, power_of_ten, split_unit
from ddpo.report.wording import with_error as worded


def chart(*lines, **options):
    return Chart("title", "note", "queries", "reward", list(lines), **options)


def points(path):
    return [tuple(float(value) for value in pair) for pair in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path)]


def test_points_and_band_lie_where_their_values_are():
    line = Line("run", "run-1", [0, 50, 100], [0.0, 1.0, 2.0], low=[0.0, 0.5, 1.0], high=[0.0, 1.5, 3.0])
    placed = place(chart(line, from_zero=True))
    assert placed is not None
    # the axis of values reaches from 0 to 3.18 = 1.06 * 3; SVG counts downwards from 0 to 1000
    height = {value: pytest.approx(1000 * (1 - value / 3.18), abs=0.06) for value in (0, 0.5, 1, 1.5, 2, 3)}
    assert points(placed.lines[0].path) == [(0, height[0]), (500, height[1]), (1000, height[2])]
    assert points(placed.lines[0].band) == [
        (0, height[0]), (500, height[1.5]), (1000, height[3]), (1000, height[1]), (500, height[0.5]), (0, height[0]),
    ]  # fmt: skip
    assert placed.y_ticks == [(pytest.approx(100 * value / 3.18), str(value)) for value in (0, 1, 2, 3)]
    assert [text for _, text in placed.x_ticks] == ["0", "25", "50", "75", "100"]
    assert placed.points[1]["x"] == 50
    assert placed.points[1]["head"] == "50 queries"
    assert placed.points[1]["rows"][0]["text"] == "1 (0.5 to 1.5)"


def test_a_logarithmic_axis_is_used_where_values_span_it_and_zeros_lie_below():
    placed = place(chart(Line("a", "x", [1, 2, 3, 4], [0.0, 1e-6, 1e-4, 1e-2]), log=True))
    assert placed is not None
    assert placed.is_log
    first, *others = [y for _, y in points(placed.lines[0].path)]
    assert first == 1000
    assert others[0] - others[1] == pytest.approx(others[1] - others[2], abs=0.2)  # equal factors, equal steps
    assert [text for _, text in placed.y_ticks] == [f"1e{MINUS}06", f"1e{MINUS}05", "0.0001", "0.001", "0.01"]
    narrow = place(chart(Line("a", "x", [1, 2], [1.0, 2.0]), log=True))
    assert narrow is not None
    assert not narrow.is_log


@pytest.mark.parametrize("values", [[0.0], [3.0], [-2.0, -2.0], [1e-12, 2e-12], [1e12, 1e12 + 1]])
def test_any_values_have_an_axis(values):
    placed = place(chart(Line("a", "x", list(range(len(values))), values)))
    assert placed is not None
    assert 1 <= len(placed.y_ticks) <= 8
    assert all(0 <= at <= 100 for at, _ in placed.y_ticks + placed.x_ticks)


@pytest.mark.parametrize(
    ("x", "y"),
    [([-8, -4], [1.0, 2.0]), ([-8, 8], [1.0, 2.0]), ([0, 1], [-1e100, 1e100]), ([0, 1], [0.0, 5e-324])],
)
@pytest.mark.parametrize("from_zero", [False, True])
def test_places_and_values_that_no_run_has_break_nothing(x, y, from_zero):
    placed = place(chart(Line("a", "x", x, y), from_zero=from_zero))
    assert placed is not None
    assert all(0 <= value <= 1000 for pair in points(placed.lines[0].path) for value in pair)
    assert all(0 <= at <= 100 for at, _ in placed.y_ticks + placed.x_ticks)


def test_no_points_no_chart():
    assert place(chart()) is None
    assert place(chart(Line("a", "x", [], []))) is None


def test_runs_of_different_length_share_the_axis_and_the_readout():
    placed = place(chart(Line("a", "x", [10, 20], [1, 2]), Line("b", "y", [20, 40], [3, 4])))
    assert placed is not None
    assert [(point["x"], [row["name"] for row in point["rows"]]) for point in placed.points] == [
        (25, ["a"]), (50, ["a", "b"]), (100, ["b"]),
    ]  # fmt: skip


def test_numbers_in_words():
    assert [number(value) for value in (0, 3.0, -2.1344, 123456, 3.21e-5)] == [
        "0", "3", f"{MINUS}2.134", "123,456", f"3.2e{MINUS}05",
    ]  # fmt: skip
    assert worded(0.6512, 0.0314, sign=True) == "+0.651 ± 0.031"
    assert worded(-0.5, 0.08, sign=True) == f"{MINUS}0.500 ± 0.080"
    assert worded(2.0, 0.0) == "2"
    assert alike(-2.337, -1.692) == [f"{MINUS}2.34", f"{MINUS}1.69"]
    assert alike(5.0, 5.0) == ["5.0", "5.0"]
    assert (fixed(-0.001, 2), fixed(-0.016, 2)) == ("0.00", f"{MINUS}0.02")
    assert [column_decimals(values) for values in ([1.0, 0.0], [-2.5, 0.1], [0.031], [])] == [0, 2, 4, 0]
    assert [duration(seconds) for seconds in (0.0351, 4.84, 372, 11100)] == [
        "35 ms",
        "4.8 s",
        "6 min 12 s",
        "3 h 05 min",
    ]
    assert [count(1, "iteration"), count(2048, "reward query")] == ["1 iteration", "2,048 reward queries"]
    assert power_of_ten(120) == "10¹²⁰"
    assert split_unit("negative JPEG size (kB)") == ("negative JPEG size", "kB")
    assert split_unit("redness (mean level)") == ("redness (mean level)", "")
