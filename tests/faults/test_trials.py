"""The trials of docs/reliability.md at their fast size; `benchmarks/faults.py` runs them at full size."""

from __future__ import annotations

import pytest
from fault_trials.refusals import flaw_of
from fault_trials.registry import Trial, all_trials, count


@pytest.mark.parametrize("one", [pytest.param(one, id=f"{one.number}-{one.name}") for one in all_trials()])
def test_nothing_is_lost(one: Trial, tmp_path):
    tally = count(one, one.fast, tmp_path)
    assert not tally.lost, tally.summary


@pytest.mark.parametrize(
    "sentence", ["Input should be a number.", "two\nlines.", "x" * 1000 + ".", "no end", "1 validation error for X."]
)
def test_what_is_no_clear_sentence_counts_as_lost(sentence):
    assert flaw_of(sentence) is not None
    assert flaw_of("iterations: must be a whole number (given: 'many').") is None
