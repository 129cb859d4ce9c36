"""Numbers, durations and units in words."""

from __future__ import annotations

from ddpo.report.wording import (
    MINUS,
    alike,
    count,
    duration,
    number,
    plain,
    split_unit,
    with_error,
)


def test_numbers_in_words():
    assert [number(value) for value in (0, 3.0, -2.1344, 123456, 3.21e-5)] == [
        "0", "3", f"{MINUS}2.134", "123,456", f"3.2e{MINUS}05",
    ]  # fmt: skip
    assert with_error(0.6512, 0.0314, sign=True) == "+0.651 ± 0.031"
    assert [with_error(*pair) for pair in ((123.4, 12.3), (2.0, 0.0), (0.5, float("nan")))] == ["123 ± 12", "2", "0.5"]
    assert plain(with_error(-0.5, 0.08)) == "-0.500 ± 0.080"
    assert alike(-2.337, -1.692) == [f"{MINUS}2.34", f"{MINUS}1.69"]
    assert alike(5.0, 5.0) == ["5.0", "5.0"]
    assert alike(-0.001, 1.0) == ["0.0", "1.0"]


def test_durations_counts_and_units():
    seconds = (0.0351, 4.84, 372, 11100)
    assert [duration(each) for each in seconds] == ["35 ms", "4.8 s", "6 min 12 s", "3 h 05 min"]
    assert [count(1, "iteration"), count(2048, "reward query")] == ["1 iteration", "2,048 reward queries"]
    assert split_unit("negative JPEG size (kB)") == ("negative JPEG size", "kB")
    assert split_unit("redness (mean level)") == ("redness (mean level)", "")
