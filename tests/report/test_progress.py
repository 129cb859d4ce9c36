import io

import pytest
from rich.console import Console

from ddpo.report.progress import (
    LiveDisplay,
    PlainDisplay,
    Progress,
    QuietDisplay,
    duration,
    make_display,
    sparkline,
    with_error,
)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def metrics(number, mean=-1.842, **more):
    return {
        "iteration": number,
        "reward_queries": 48 * number,
        "reward/mean": mean,
        "reward/standard_error": 0.0199,
        "clip_fraction": 0.123,
        **more,
    }


def test_plain_lines():
    stream, clock = io.StringIO(), Clock()
    with PlainDisplay(stream, clock) as display:
        display.start(40, "compress-animals")
        for number, seconds in ((1, 9.0), (2, 6.2), (3, 6.3)):
            clock.now += seconds
            display.phase("rollout", 1, 2)
            display.iteration(metrics(number))
        display.message("saved")
    # left: the median of 9.0, 6.2, 6.3 s is 6.3 s, 37 iterations remain: 233 s
    assert stream.getvalue().splitlines() == [
        "compress-animals: 40 iterations",
        "iteration 1/40  reward -1.842 ± 0.020  clip 0.12  9.0 s  left 5:51",
        "iteration 2/40  reward -1.842 ± 0.020  clip 0.12  6.2 s  left 4:49",
        "iteration 3/40  reward -1.842 ± 0.020  clip 0.12  6.3 s  left 3:53",
        "saved",
    ]


@pytest.mark.parametrize(("waited", "shown"), [(0.9, "9.0 s  left"), (0.91, "9.0 s (0.9 waiting for rewards)  left")])
def test_waiting_for_rewards_is_shown_from_a_tenth_of_the_time_on(waited, shown):
    stream, clock = io.StringIO(), Clock()
    plain, live = PlainDisplay(stream, clock), LiveDisplay(Console(file=io.StringIO(), width=120), clock)
    for display in (plain, live):
        display.start(2, "run")
    clock.now += 9.0
    for display in (plain, live):
        display.iteration(metrics(1, **{"time/reward": waited}))
    live.stop()
    assert shown in stream.getvalue()
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(live.render())
    assert ("waiting for rewards" in console.export_text()) == ("waiting" in shown)


def test_plain_lines_on_an_ascii_stream():
    raw = io.BytesIO()
    display = PlainDisplay(io.TextIOWrapper(raw, encoding="ascii", write_through=True), Clock())
    display.start(1, "run")
    display.iteration(metrics(1))
    assert b"reward -1.842 +- 0.020" in raw.getvalue()


def test_metrics_may_be_missing():
    stream, clock = io.StringIO(), Clock()
    display = PlainDisplay(stream, clock)
    display.start(2, "run")
    clock.now += 1.0
    display.iteration({})
    assert stream.getvalue().splitlines()[1] == "iteration 1/2  1.0 s  left 0:01"


def live():
    clock = Clock()
    console = Console(file=io.StringIO(), force_terminal=True, width=100, record=True)
    return LiveDisplay(console, clock), clock, console


def test_the_live_panel():
    display, clock, console = live()
    with display:
        display.start(4, "compress-animals")
        for number, mean in ((1, -2.0), (2, -1.9), (3, -1.5)):
            clock.now += 6.0
            display.iteration(metrics(number, mean))
        display.phase("rollout", 12, 48)
        display.message("a [bold] message")
        console.print(display.render())
    text = console.export_text()
    assert "compress-animals" in text
    assert "3/4  left 0:06" in text
    assert "12/48" in text
    assert "▁▂█" in text  # -2.0 -> 0, -1.9 -> round(0.2 x 7) = 1, -1.5 -> 7
    assert "-1.500 ± 0.020  ▲ +0.5 since the start" in text
    assert "8.0 samples/s" in text  # 48 samples in 6 s
    assert "a [bold] message" in text


@pytest.mark.parametrize(("mean", "arrow"), [(-2.5, "▼ -0.5"), (-1.5, "▲ +0.5"), (-1.95, "as at the start")])
def test_the_trend_counts_when_it_exceeds_two_standard_errors(mean, arrow):
    # the error of the difference is 0.0199 sqrt(2) = 0.028, twice that 0.056: 0.05 is no trend
    display, _, console = live()
    display.start(4, "run")
    display.iteration(metrics(1, -2.0))
    display.iteration(metrics(2, mean))
    display.stop()
    console.print(display.render())
    assert arrow in console.export_text()


def test_the_panel_ends_with_the_run():
    display, _, console = live()
    display.start(1, "run")
    display.iteration(metrics(1))
    display.stop()
    display.stop()
    console.print(display.render())
    assert "done" in console.export_text()


def test_samples_of_a_resumed_run():
    clock = Clock()
    progress = Progress(40, clock)
    for number in (21, 22):
        clock.now += 4.0
        progress.add(metrics(number))
    # the first iteration seen says nothing: 21 x 48 queries were not drawn in 4 s
    assert progress.samples_per_second() == 12.0
    assert progress.finished == 22
    assert progress.left() == 18 * 4.0


def test_quiet(capsys):
    with make_display(quiet=True) as display:
        display.start(1, "run")
        display.phase("rollout", 1, 1)
        display.iteration(metrics(1))
        display.message("x")
    assert isinstance(display, QuietDisplay)
    assert capsys.readouterr() == ("", "")


def test_the_display_follows_the_terminal(monkeypatch):
    assert isinstance(make_display(), PlainDisplay)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert isinstance(make_display(), LiveDisplay)


def test_duration():
    assert [duration(s) for s in (None, 0, 59.6, 231, 3723)] == ["-:--", "0:00", "1:00", "3:51", "1:02:03"]


def test_with_error():
    cases = ((-1.842, 0.0199), (1.5, 0.5), (123.4, 12.3), (0.5, None), (0.5, 0.0), (0.123456, 0.00042))
    shown = ["-1.842 ± 0.020", "1.50 ± 0.50", "123 ± 12", "0.5", "0.5", "0.12346 ± 0.00042"]
    assert [with_error(*case) for case in cases] == shown


def test_sparkline():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([0, 0, 7, 7], 2) == "▁█"  # averaged in two halves
    assert sparkline([3, 3, 3], 8) == "▁▁▁"
    assert sparkline([], 8) == ""
    assert sparkline([float("nan"), 1, 2], 8) == "▁█"
    assert len(sparkline(list(range(100)), 30)) == 30
