"""Weights shared among processes, and the standard error of an iteration's mean reward."""

from __future__ import annotations

import numpy as np
import pytest

from ddpo.config import parse_config
from ddpo.training.credit import Credit, reward_statistics


def test_the_mean_over_processes_is_the_mean_over_all_kept_samples():
    config = parse_config({"algorithm": {"name": "rwr-sparse", "percentile": 0.6, "reweighting": "dataset"}})
    rewards = np.array([9.0, 8.0, 7.0, 0.0, 1.0, 2.0, 6.0, 3.0])
    value = np.array([1.0, 2.0, 4.0, 100.0, 100.0, 100.0, 8.0, 100.0])
    # the 60 % quantile of the eight is 6.2: kept are 9, 8, 7, all of the first process
    unequal = [np.arange(8) < 4, np.arange(8) >= 4]
    # with 40 % discarded the threshold is 2.8: kept are 9, 8, 7 here and 6, 3 there
    for percentile, expected in ((0.6, (1 + 2 + 4) / 3), (0.4, (1 + 2 + 4 + 8 + 100) / 5)):
        algorithm = config.algorithm.model_copy(update={"percentile": percentile})
        credit = Credit(config.model_copy(update={"algorithm": algorithm}), processes=2)
        means = []
        for own in unequal:
            weights, _ = credit.assign(["a"] * 8, rewards, own)
            kept = weights > 0
            own_value = value[own]
            means.append((weights * own_value)[kept].mean() if kept.any() else 0.0)  # what its minibatches average
        assert np.mean(means) == pytest.approx(expected)


def test_one_process_has_the_algorithms_weights():
    config = parse_config({"algorithm": {"name": "rwr", "beta": 1.0}})
    weights, metrics = Credit(config, processes=1).assign(["a"] * 3, np.array([0.0, 1.0, 2.0]), np.full(3, True))
    exponentials = np.exp([0.0, 1.0, 2.0])
    assert weights == pytest.approx(exponentials / exponentials.mean())
    assert metrics["weight/kept"] == 1


def test_the_standard_error_is_over_drawn_prompts():
    # two drawn prompts with means 1 and 3, whatever their samples: error of two values 1, 3 is sd/sqrt 2 = 1
    rewards = np.array([1.0, 1.0, 1.0, 1.0, 3.0, 3.0, 3.0, 3.0])
    assert reward_statistics(rewards, np.arange(8) // 4)["reward/standard_error"] == pytest.approx(1.0)
    assert reward_statistics(rewards, np.arange(8))["reward/standard_error"] == pytest.approx(
        rewards.std(ddof=1) / 8**0.5
    )
    assert reward_statistics(rewards, np.zeros(8, dtype=int))["reward/standard_error"] == pytest.approx(
        rewards.std(ddof=1) / 8**0.5
    )
    assert reward_statistics(np.array([2.0]), np.array([0]))["reward/standard_error"] == 0
