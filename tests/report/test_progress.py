import io

import pytest
from rich.console import Console

from ddpo.report.progress import LiveDisplay, PlainDisplay, QuietDisplay, make_display, sparkline


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
        "iteration 1/40  reward -1.842 ± 0.020  clip 0.12  9.0 s  left 5 min 51 s",
        "iteration 2/40  reward -1.842 ± 0.020  clip 0.12  6.2 s  left 4 min 49 s",
        "iteration 3/40  reward -1.842 ± 0.020  clip 0.12  6.3 s  left 3 min 53 s",
        "saved",
    ]


def test_plain_lines_with_metrics_missing_of_a_resumed_run_on_an_ascii_stream():
    raw, clock = io.BytesIO(), Clock()
    display = PlainDisplay(io.TextIOWrapper(raw, encoding="ascii", write_through=True), clock)
    display.start(1, "run")
    clock.now += 1.0
    display.iteration({})
    display.start(40, "run")
    clock.now += 4.0
    display.iteration(metrics(21))
    assert raw.getvalue().decode().splitlines() == [
        "run: 1 iteration",
        "iteration 1/1  1.0 s  done",
        "run: 40 iterations",
        "iteration 21/40  reward -1.842 +- 0.020  clip 0.12  4.0 s  left 1 min 16 s",
    ]


@pytest.mark.parametrize(("waited", "shown"), [(0.9, "9.0 s  left"), (0.91, "9.0 s (0.9 s waiting for rewards)  left")])
def test_waiting_for_rewards_is_shown_from_a_tenth_of_the_time_on(waited, shown):
    stream, clock = io.StringIO(), Clock()
    display = PlainDisplay(stream, clock)
    display.start(2, "run")
    clock.now += 9.0
    display.iteration(metrics(1, **{"time/reward": waited}))
    assert shown in stream.getvalue()


def panel(*iterations, total=4):
    """Return what the terminal shows at last after these iterations of 6 s, a phase and the end of the run."""
    clock, console = Clock(), Console(file=io.StringIO(), force_terminal=True, width=100, record=True)
    with LiveDisplay(console, clock) as display:
        display.start(total, "compress-animals")
        for number, mean in iterations:
            clock.now += 6.0
            display.phase("rollout", 12, 48)
            display._live.refresh()
            display.iteration(metrics(number, mean))
        display.phase("checkpoint", 0, 1)
        display.message("a [bold] message")
    display.stop()
    return console.export_text()


def test_the_live_panel():
    text = panel((1, -2.0), (2, -1.9), (3, -1.5))
    for part in ("compress-animals", "rollout", "12/48", "a [bold] message"):
        assert part in text
    last = text[text.rindex("compress-animals") :]
    assert "3/4 left 6.0 s, 6.0 s an iteration" in last
    assert "▁▂█" in last  # -2.0 -> 0, -1.9 -> round(0.2 x 7) = 1, -1.5 -> 7
    assert "1.500 ± 0.020  ▲ 0.5 since the start" in last


def test_the_panel_ends_with_the_run_and_not_with_a_phase():
    text = panel((1, -2.0), total=1)
    last = text[text.rindex("compress-animals") :]
    assert "1/1 done" in last
    assert "checkpoint" not in last


def test_a_run_that_goes_on_keeps_its_trend():
    clock, console = Clock(), Console(file=io.StringIO(), force_terminal=True, width=100, record=True)
    with LiveDisplay(console, clock) as display:
        display.start(4, "compress-animals")
        display.past([metrics(1, -2.0), metrics(2, -1.9)])
        display._live.refresh()
        clock.now += 6.0
        display.iteration(metrics(3, -1.5))
    text = console.export_text()
    assert "2/4" in text
    last = text[text.rindex("compress-animals") :]
    assert "3/4 left 6.0 s, 6.0 s an iteration" in last
    assert "▁▂█" in last
    assert "▲ 0.5 since the start" in last


@pytest.mark.parametrize(("mean", "arrow"), [(-2.5, "▼ 0.5"), (-1.5, "▲ 0.5"), (-1.95, "as at the start")])
def test_the_trend_counts_when_it_is_more_than_chance(mean, arrow):
    # the error of the difference is 0.0199 sqrt(2) = 0.028, 1.96 times that 0.055: 0.05 is no trend
    assert arrow in panel((1, -2.0), (2, mean))


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


def test_sparkline():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([0, 0, 7, 7], 2) == "▁█"  # averaged in two halves
    assert sparkline([3, 3, 3], 8) == "▁▁▁"
    assert len(sparkline(list(range(100)), 30)) == 30
