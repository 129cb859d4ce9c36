"""Intervals against SciPy and hand computations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ddpo.report.intervals import bootstrap, over_seeds


def test_interval_over_seeds_is_students():
    # values 1, 2, 3: mean 2, sd 1, error 1/sqrt(3); t(0.975, 2) = 4.302653 from tables
    mean = over_seeds([1, 2, 3])
    assert mean.mean == 2
    assert mean.error == pytest.approx(3**-0.5)
    assert mean.high - 2 == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
    assert mean.low == pytest.approx(4 - mean.high)
    assert mean.number == 3
    assert not mean.rose
    assert not mean.fell
    assert over_seeds([1.9, 2, 2.1]).rose


def test_one_seed_has_no_interval_and_is_never_clear():
    mean = over_seeds([5.0])
    assert (mean.mean, mean.error, mean.low, mean.high, mean.number) == (5, 0, 5, 5, 1)
    assert not mean.rose
    assert not mean.fell


def test_bootstrap_agrees_with_scipy():
    values = np.random.default_rng(3).exponential(size=60)
    ours = bootstrap(values)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=10_000, rng=1).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.01)
    assert ours.high == pytest.approx(theirs.high, abs=0.01)
    assert ours.error == pytest.approx(stats.sem(values))
    assert bootstrap(values) == ours


def test_clusters_are_resampled_whole():
    # against SciPy, resampling (sum, size) of each cluster together; sizes differ, so this is a mean of no means
    generator = np.random.default_rng(5)
    sizes = generator.integers(1, 6, 40)
    labels = np.repeat([f"prompt {index}" for index in range(40)], sizes)
    values = np.repeat(generator.exponential(size=40), sizes) + 0.3 * generator.normal(size=sizes.sum())
    sums = np.array([values[labels == f"prompt {index}"].sum() for index in range(40)])
    theirs = stats.bootstrap(
        (sums, sizes), lambda s, n, axis: s.sum(axis) / n.sum(axis), paired=True, method="percentile",
        n_resamples=10_000, rng=1,
    )  # fmt: skip
    ours = bootstrap(values, clusters=labels.tolist())
    assert ours.mean == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.015)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.015)
    assert ours.error == pytest.approx(theirs.standard_error, rel=0.05)
    assert ours.number == 40
    assert ours.high - ours.low > 1.3 * (bootstrap(values).high - bootstrap(values).low)


def test_equal_clusters_are_their_means():
    values = np.random.default_rng(6).normal(size=(24, 4))
    labels = [prompt for prompt in range(24) for _ in range(4)]
    ours, means = bootstrap(values.ravel(), clusters=labels), bootstrap(values.mean(1))
    assert (ours.mean, ours.error) == pytest.approx((means.mean, means.error))
    assert (ours.low, ours.high) == pytest.approx((means.low, means.high))


def test_two_clusters_have_students_interval():
    # means 1 and 3: error 1, and t(0.975, 1) = 12.706 from tables; resampled, their range 1 to 3 would be the interval
    mean = bootstrap([1.0, 1.0, 3.0, 3.0], clusters=["cat", "cat", "dog", "dog"])
    assert (mean.mean, mean.error, mean.number) == pytest.approx((2, 1, 2))
    assert (mean.low, mean.high) == pytest.approx((2 - 12.706, 2 + 12.706), abs=1e-3)


@pytest.mark.parametrize("number", [2, 3, 6, 19, 20])
def test_intervals_of_few_clusters_hold_the_mean_as_often_as_they_say(number):
    generator = np.random.default_rng(number)
    labels = [index for index in range(number) for _ in range(3)]
    held = 0
    for _ in range(1000):
        values = np.repeat(generator.normal(size=number), 3) + 0.5 * generator.normal(size=3 * number)
        mean = bootstrap(values, clusters=labels, resamples=500)
        held += mean.low <= 0 <= mean.high
    assert held >= 915  # of 950; five standard errors are 35


def test_a_single_cluster_has_no_interval():
    mean = bootstrap([1.0, 3.0], clusters=["a cat", "a cat"])
    assert (mean.mean, mean.error, mean.low, mean.high, mean.number) == (2, 0, 2, 2, 1)
    with pytest.raises(ValueError, match="2 values but 1 cluster"):
        bootstrap([1.0, 3.0], clusters=["a cat"])


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [[1.0]]])
def test_nothing_is_made_of_nothing(values):
    with pytest.raises(ValueError, match="finite"):
        over_seeds(values)
