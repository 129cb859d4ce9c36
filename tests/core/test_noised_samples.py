"""Minibatches of regression: which samples, timesteps and noise an update sees, and the loss on them."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler

from ddpo.algorithms import SparseRewardWeightedRegression
from ddpo.core.conditioning import Conditioning
from ddpo.core.minibatches import noised_samples
from ddpo.policies.schedule import read_schedule

NUMBER = 10


@pytest.fixture
def batches(ddim_config):
    """Return the minibatches of `number` updates; sample i is i everywhere."""
    clean = torch.arange(float(NUMBER))[:, None, None, None].expand(NUMBER, 3, 8, 8)

    def build(weights, number=3, size=8, seed=0, **config):
        return list(
            noised_samples(
                clean,
                Conditioning.of(scale=torch.arange(float(NUMBER))),
                torch.tensor(weights),
                read_schedule(ddim_config(**config)),
                number=number,
                size=size,
                generator=torch.Generator().manual_seed(seed),
            )
        )

    return build


def test_weighted_samples_are_gone_through_in_passes(batches):
    weights = [0.0, 2.0, 0.0, 1.0, 1.0, 0.0, 0.5, 0.0, 0.0, 0.5]
    seen = [i for batch in batches(weights, number=5, size=4) for i in batch.clean[:, 0, 0, 0].int().tolist()]
    kept = {1, 3, 4, 6, 9}
    for start in range(0, 20, 5):
        assert set(seen[start : start + 5]) == kept
    assert seen[:5] != seen[5:10]


def test_every_row_belongs_together(batches):
    for batch in batches([float(i) for i in range(NUMBER)]):
        index = batch.clean[:, 0, 0, 0].int().tolist()
        assert batch.sample_N.tolist() == index
        assert batch.conditioning["scale"].tolist() == batch.weight_N.tolist() == [float(i) for i in index]
        assert torch.equal(batch.cleanness_N, (999 - batch.time_N).double() / 1000)
        parts = list(batch.split(3))
        assert [len(part) for part in parts] == [3, 3, 2]
        assert torch.equal(parts[1].noise, batch.noise[3:6])
        assert parts[1].conditioning["scale"].tolist() == parts[1].weight_N.tolist() == [float(i) for i in index[3:6]]


def test_stretches_are_equal_parts_of_the_timesteps(batches):
    batch = batches([1.0] * NUMBER, number=1, size=500)[0]
    assert batch.stretch_N(5).tolist() == [1 + (999 - time) // 200 for time in batch.time_N.tolist()]


def test_timesteps_are_uniform_and_noise_is_fresh(batches):
    drawn = batches([1.0] * NUMBER, number=200, size=100)
    time_N = torch.cat([batch.time_N for batch in drawn])
    assert (time_N.min(), time_N.max()) == (0, 999)
    counts = torch.histc(time_N.float(), 10, 0, 1000)
    # 20,000 draws over 10 bins: 2,000 +- 42
    assert (counts - 2000).abs().max() < 5 * 42
    assert len({batch.noise[0, 0, 0, 0].item() for batch in drawn}) == 200
    assert not torch.equal(drawn[0].noise[0], drawn[0].noise[1])


def test_a_process_without_weights_has_no_effect_but_takes_part(batches):
    drawn = batches([0.0] * NUMBER)
    assert len(drawn) == 3
    assert all((batch.weight_N == 0).all() for batch in drawn)


def test_negative_weights_are_kept(batches, ddim_config, conv_policy):
    # What a policy gradient of the forward process needs: samples to move away from.
    weights = [-1.0, 2.0, 0.0, 1.0, -0.5, 0.0, 0.5, 0.0, 0.0, 0.5]
    [batch] = batches(weights, number=1, size=6)
    assert sorted(batch.sample_N.tolist()) == [0, 1, 3, 4, 6, 9]
    assert batch.weight_N.tolist() == [weights[i] for i in batch.sample_N.tolist()]
    loss, metrics = SparseRewardWeightedRegression().loss(conv_policy(ddim_config(), steps=4), batch)
    torch.testing.assert_close(loss, (batch.weight_N * metrics["denoising_loss"]).mean())


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_noised_samples_and_targets_are_diffusers(batches, ddim_config, prediction_type):
    config = ddim_config(prediction_type=prediction_type)
    ours, theirs = read_schedule(config), DDIMScheduler.from_config(config)
    batch = batches([1.0] * NUMBER)[0]
    clean, noise, time_N = batch.clean, batch.noise, batch.time_N
    torch.testing.assert_close(
        ours.noised(clean, noise, time_N), theirs.add_noise(clean, noise, time_N), rtol=1e-5, atol=1e-5
    )
    expected = {
        "epsilon": noise,
        "v_prediction": theirs.get_velocity(clean, noise, time_N),
        "sample": clean,
    }[prediction_type]
    torch.testing.assert_close(ours.target(clean, noise, time_N), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_equal_weights_give_the_plain_denoising_loss(batches, ddim_config, conv_policy, prediction_type):
    config = ddim_config(prediction_type=prediction_type)
    policy, theirs = conv_policy(config, steps=4), DDIMScheduler.from_config(config)
    batch = batches([1.0] * NUMBER)[0]
    noised = theirs.add_noise(batch.clean, batch.noise, batch.time_N)
    target = {
        "epsilon": batch.noise,
        "v_prediction": theirs.get_velocity(batch.clean, batch.noise, batch.time_N),
        "sample": batch.clean,
    }[prediction_type]
    expected = torch.nn.functional.mse_loss(policy.network(noised, batch.time_N, batch.conditioning), target)
    loss, metrics = SparseRewardWeightedRegression().loss(policy, batch)
    torch.testing.assert_close(loss, expected)
    assert metrics["denoising_loss"].mean().item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("trains_guidance", [True, False])
def test_a_regression_trains_the_prediction_that_the_policy_trains(batches, ddim_config, conv_policy, trains_guidance):
    policy = conv_policy(ddim_config(), steps=4)
    predict, asked = policy.predict, []

    def watched(x, time_B, conditioning, *, guided):
        asked.append(guided)
        return predict(x, time_B, conditioning, guided=guided)

    policy.predict, policy.trains_guidance = watched, trains_guidance
    SparseRewardWeightedRegression().loss(policy, batches([1.0] * NUMBER)[0])
    assert asked == [trains_guidance]


def test_weights_multiply_each_samples_error(batches, ddim_config, conv_policy):
    policy = conv_policy(ddim_config(), steps=4)
    weighted = batches([0.5 * (1 + i) for i in range(NUMBER)])[0]
    loss, metrics = SparseRewardWeightedRegression().loss(policy, weighted)
    expected = (weighted.weight_N * metrics["denoising_loss"]).mean()
    torch.testing.assert_close(loss, expected)
