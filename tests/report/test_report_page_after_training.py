"""Training ends with a report, and a report that cannot be written takes nothing along."""

from __future__ import annotations

import pytest

from ddpo.report.progress import QuietDisplay
from ddpo.training.run import train


class Spoken(QuietDisplay):
    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)


def test_training_ends_with_a_report(tiny_config):
    folder = train(tiny_config()).folder
    page = folder.report.read_text()
    assert "After 2 iterations, 16 reward queries" in page
    assert page.count("data:image/png") == 2 * (3 + 1)  # 2 samples at 3 evaluations, and as they are shown at first
    record = folder.read()
    assert [evaluation.iteration for evaluation in record.evaluations] == [0, 1, 2]
    assert record.problems == []
    assert all(evaluation.tiles is not None for evaluation in record.evaluations)


@pytest.mark.parametrize("error", [OSError("No space left on device"), ValueError("a mistake of ours")])
def test_a_report_that_fails_is_said_and_the_run_stays(tiny_config, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("ddpo.training.run_loop.write_page", fail)
    display = Spoken()
    result = train(tiny_config(), display=display)
    assert result.folder.model.is_dir()
    assert not result.folder.report.exists()
    assert [text for text in display.said if "was not written" in text and str(error) in text]
