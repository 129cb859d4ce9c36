"""The fixed samples are the same through a run, and no samples of training."""

from __future__ import annotations

import numpy as np
import pytest

from ddpo.core.randomness import Stream, sample_seeds
from ddpo.evaluation.fixed_samples import Evaluator
from ddpo.prompts import from_list
from ddpo.rewards import load_reward
from ddpo.runtime.processes import Runtime


def brightness(images, prompts, metadata):
    return images.mean((1, 2, 3))


@pytest.fixture
def policy(conv_policy, ddim_config):
    return conv_policy(ddim_config(), steps=3)


def evaluator(**changes):
    settings = {"number": 4, "seed": 7, "batch_size": 3, "runtime": Runtime(device="cpu", threads=1)} | changes
    return Evaluator(from_list(["a cat", "an owl"]), [load_reward(brightness)], **settings)


def test_a_policy_that_has_not_changed_draws_the_same_at_any_time(policy):
    first, later = (evaluator().evaluate(policy, iteration) for iteration in (0, 30))
    np.testing.assert_array_equal(first.thumbnails, later.thumbnails)
    assert first.metrics == later.metrics
    assert len({picture.tobytes() for picture in first.thumbnails}) == 4
    other = evaluator(seed=8).evaluate(policy, 0)
    assert not np.array_equal(first.thumbnails, other.thumbnails)


def test_their_seeds_are_in_no_iteration_of_training():
    fixed = {seed for run in range(3) for seed in evaluator(seed=run)._seeds}
    training = {seed for run in range(3) for i in range(100) for seed in sample_seeds(run, Stream.SAMPLE, i, range(16))}
    assert len(fixed) == 12
    assert not fixed & training
