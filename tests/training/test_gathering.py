"""Weights shared among processes, and the standard error of an iteration's mean reward."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ddpo.algorithms import RewardWeightedRegression, SparseRewardWeightedRegression
from ddpo.config import TrainConfig
from ddpo.core.conditioning import Conditioning
from ddpo.core.experience import Experience, UpdateSettings
from ddpo.core.kernel import ddim
from ddpo.core.prompt import Prompt
from ddpo.core.trajectory import Trajectory
from ddpo.policies import NetworkPolicy
from ddpo.policies.schedule import read_schedule
from ddpo.rewards import load_reward
from ddpo.training.gathering import gather_rewards, reward_statistics
from ddpo.training.iteration import Iteration

SETTINGS = UpdateSettings(2, 1, 1.0, TrainConfig().advantage)


@pytest.fixture(scope="module")
def policy(ddim_config):
    schedule = read_schedule(ddim_config())
    return NetworkPolicy(nn.Linear(1, 1), ddim(schedule, 3), schedule, (1,))


def part_of(policy, credit, first, number):
    """Return what a process has that drew `number` samples from index `first` on."""
    states = torch.arange(first, first + number, dtype=torch.float32)[:, None, None]
    nothing = states.new_empty(number, 0)
    trajectory = Trajectory(policy.kernel, Conditioning.none(number), states, nothing[..., None], nothing)
    return Experience(trajectory, credit, first, 0, 1)


def test_the_mean_over_processes_is_the_mean_over_all_kept_samples(policy):
    rewards = np.array([9.0, 8.0, 7.0, 0.0, 1.0, 2.0, 6.0, 3.0])
    value = np.array([1.0, 2.0, 4.0, 100.0, 100.0, 100.0, 8.0, 100.0])
    # the 60 % quantile of the eight is 6.2: kept are 9, 8, 7, all of the first process
    # with 40 % discarded the threshold is 2.8: kept are 9, 8, 7 here and 6, 3 there
    for percentile, expected in ((0.6, (1 + 2 + 4) / 3), (0.4, (1 + 2 + 4 + 8 + 100) / 5)):
        algorithm = SparseRewardWeightedRegression(
            percentile=percentile, reweighting="dataset", samples_per_update=2 * 12
        )
        credit, _, _ = algorithm.credit(["a"] * 8, rewards, {}, SETTINGS)
        means = []
        for first in (0, 4):
            batches = list(algorithm.minibatches(policy, part_of(policy, credit, first, 4), SETTINGS))
            own = torch.cat([batch.sample_N for batch in batches]).numpy() + first
            weight = torch.cat([batch.weight_N for batch in batches]).double().numpy()
            assert len(own) == 2 * 12  # half of an update's samples in each process, whole passes of what it kept
            assert torch.equal(torch.cat([batch.clean for batch in batches])[:, 0], torch.as_tensor(own).float())
            means.append((weight * value[own]).mean())
        assert np.mean(means) == pytest.approx(expected)


def test_one_process_has_the_algorithms_weights(policy):
    algorithm = RewardWeightedRegression(beta=1.0, samples_per_update=3)
    credit, _, metrics = algorithm.credit(["a"] * 3, np.array([0.0, 1.0, 2.0]), {}, SETTINGS)
    exponentials = np.exp([0.0, 1.0, 2.0])
    assert credit == pytest.approx(exponentials / exponentials.mean())
    assert metrics["weight/kept"] == 1
    batch = next(iter(algorithm.minibatches(policy, part_of(policy, credit, 0, 3), SETTINGS)))
    assert batch.weight_N.numpy() == pytest.approx(credit[batch.sample_N])


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


class OneOfTwo:
    """The runtime of the first of two processes, of which the other has these scores."""

    def __init__(self, scores):
        self.scores = scores

    def gather(self, items):
        return [*items, self.scores]


def test_rewards_are_those_of_all_processes_in_order():
    reward = load_reward(lambda images, prompts, metadata: images)
    prompts = [Prompt(text) for text in ("a cat", "a dog", "an ant", "an owl")]
    iteration = Iteration(1, prompts[:2], 0, {reward.key: [1.0, 2.0]})
    config = TrainConfig(samples_per_iteration=4, updates_per_iteration=1)
    rewards = gather_rewards(iteration, prompts, reward, config, OneOfTwo({reward.key: [np.nan, 5.0]}))
    assert rewards.texts == ["a cat", "a dog", "an owl"]
    assert rewards.reward_K.tolist() == [1.0, 2.0, 5.0]
    assert rewards.index_K.tolist() == [0, 1, 3]
    assert rewards.metrics["reward/mean"] == pytest.approx(8 / 3)
    assert rewards.metrics["reward/skipped"] == 1
