"""Weights of reward-weighted regression against hand computations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ddpo.algorithms import RewardWeightedRegression, SparseRewardWeightedRegression
from ddpo.core.weights import effective_samples, exponential_weights, percentile_weights


def test_exponential_weights_by_hand():
    # exp(ln 3 * r) of rewards 0, 1, 2: 1, 3, 9, whose mean is 13/3
    weights = exponential_weights(None, [0, 1, 2], beta=math.log(3))
    assert weights == pytest.approx([3 / 13, 9 / 13, 27 / 13])


def test_exponential_weights_compare_the_samples_of_a_prompt():
    # cat: 1 and 3, mean 2; dog: 100 above, but only against itself: 1 and 3 again; a single ant has weight 1
    weights = exponential_weights(["cat", "dog", "cat", "dog", "ant"], [0, 100, 1, 101, -7], beta=math.log(3))
    assert weights == pytest.approx([0.5, 0.5, 1.5, 1.5, 1.0])


def test_large_rewards_do_not_overflow():
    assert exponential_weights(None, [1e4, 1e4 + 1], beta=1) == pytest.approx(
        [2 / (1 + math.e), 2 * math.e / (1 + math.e)]
    )


def test_beta_0_and_constant_rewards_weigh_all_alike():
    assert exponential_weights(None, [1, 5, 9], beta=0).tolist() == [1, 1, 1]
    assert exponential_weights(["a", "a"], [4, 4], beta=2).tolist() == [1, 1]


def test_the_worst_are_discarded():
    # ten rewards 0 ... 9: the 90 % quantile with linear interpolation is 8.1
    assert percentile_weights(None, range(10), percentile=0.9).tolist() == [0] * 9 + [1]
    # 50 % of 0 ... 4 is exactly 2, which is kept
    assert percentile_weights(None, range(5), percentile=0.5).tolist() == [0, 0, 1, 1, 1]


def test_every_prompt_has_its_own_threshold():
    prompts = ["easy", "hard"] * 5
    rewards = [10 * (1 - i % 2) + i for i in range(10)]  # easy 10 ... 18, hard 1 ... 9
    kept = percentile_weights(prompts, rewards, percentile=0.9)
    assert kept.nonzero()[0].tolist() == [8, 9]
    assert percentile_weights(None, rewards, percentile=0.9).nonzero()[0].tolist() == [8]


def test_equal_rewards_are_all_kept():
    assert percentile_weights(["a"] * 4, [2, 2, 2, 2], percentile=0.9).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("function", [exponential_weights, percentile_weights])
def test_prompts_and_rewards_must_match(function):
    with pytest.raises(ValueError, match="2 prompts"):
        function(["a", "b"], [1.0], **{"beta": 1} if function is exponential_weights else {"percentile": 0.5})


def test_effective_samples():
    # Kish: (1 + 3)^2 / (1 + 9)
    assert effective_samples([1, 3]) == pytest.approx(1.6)
    assert effective_samples([0, 1, 1, 0]) == 2


def test_an_algorithms_weights_have_mean_1_over_those_it_keeps():
    prompts, rewards = ["a", "a", "b", "b", "b"], np.array([0.0, 1.0, 5.0, 7.0, 9.0])
    dense = RewardWeightedRegression(beta=1.0).weights(prompts, rewards)
    assert dense.mean() == pytest.approx(1)
    assert dense[:2].mean() == pytest.approx(1)
    sparse = SparseRewardWeightedRegression(percentile=0.5).weights(prompts, rewards)
    assert sparse.tolist() == [0, 1, 0, 1, 1]
    pooled = SparseRewardWeightedRegression(percentile=0.5, reweighting="dataset").weights(prompts, rewards)
    assert pooled.tolist() == [0, 0, 1, 1, 1]


@pytest.mark.parametrize(("reweighting", "kept"), [("prompt", [0, 0, 1, 1]), ("dataset", [1, 0, 0, 1])])
def test_samples_are_weighed_against_their_prompts_or_all(reweighting, kept):
    # The better half of (5, 9) and of (1, 2), or of all four.
    algorithm = SparseRewardWeightedRegression(percentile=0.5, reweighting=reweighting)
    assert algorithm.weights(["a", "b", "b", "a"], np.array([5.0, 1.0, 2.0, 9.0])).tolist() == kept
