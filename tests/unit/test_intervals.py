"""Intervals against SciPy and hand computations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ddpo.intervals import bootstrap, over_seeds


def test_interval_over_seeds_is_students():
    # values 1, 2, 3: mean 2, sd 1, error 1/sqrt(3); t(0.975, 2) = 4.302653 from tables
    mean = over_seeds([1, 2, 3])
    assert mean.mean == 2
    assert mean.error == pytest.approx(3**-0.5)
    assert mean.high - 2 == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
    assert mean.low == pytest.approx(4 - mean.high)
    assert mean.number == 3
    assert not mean.is_clear
    assert over_seeds([1.9, 2, 2.1]).is_clear


def test_one_seed_has_no_interval_and_is_never_clear():
    mean = over_seeds([5.0])
    assert (mean.mean, mean.error, mean.low, mean.high, mean.number) == (5, 0, 5, 5, 1)
    assert not mean.is_clear


def test_bootstrap_agrees_with_scipy():
    values = np.random.default_rng(3).exponential(size=60)
    ours = bootstrap(values)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=10_000, rng=1).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.01)
    assert ours.high == pytest.approx(theirs.high, abs=0.01)
    assert ours.error == pytest.approx(stats.sem(values))
    assert bootstrap(values) == ours


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [[1.0]]])
def test_nothing_is_made_of_nothing(values):
    with pytest.raises(ValueError, match="finite"):
        over_seeds(values)
