"""Replay: the stored log-probabilities come back before an update, and the right others after it (house rule 7)."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from ddpo.core.objectives import importance_ratio
from ddpo.core.prompt import Prompt
from ddpo.core.rollout import replay, rollout
from ddpo.core.trajectory import Pairs

PROMPTS = [Prompt(text) for text in ("a", "cat", "owl", "bee", "elephant", "ox")]


@pytest.fixture(params=[(True, "epsilon"), (False, "epsilon"), (False, "v_prediction"), (True, "sample")], ids=str)
def policy(request, conv_policy, ddim_config):
    set_alpha_to_one, prediction_type = request.param
    return conv_policy(ddim_config(set_alpha_to_one=set_alpha_to_one, prediction_type=prediction_type), steps=5)


def every_pair(policy, batch_size: int = 6, seed: int = 0) -> Pairs:
    """All (sample, step) pairs of six trajectories, in a shuffled order."""
    trajectory = rollout(policy, policy.encode(PROMPTS), range(20, 26), batch_size=batch_size)
    steps = len(policy.kernel.stochastic_L)
    order = torch.randperm(6 * steps, generator=torch.Generator().manual_seed(seed))
    return Pairs(trajectory, order // steps, order % steps, torch.zeros(6))


def first(batch: Pairs, number: int) -> Pairs:
    """The first pairs of a batch."""
    return replace(batch, sample_N=batch.sample_N[:number], index_N=batch.index_N[:number])


def changed(policy):
    """The same policy with every weight moved a little."""
    other = copy.deepcopy(policy)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.002 * torch.randn(parameter.shape, generator=generator)
    return other


def test_ratio_is_1_and_kl_0_before_any_update(policy):
    batch = every_pair(policy)
    parts = list(batch.split(6))
    assert sum(len(part) for part in parts) == 6 * len(policy.kernel.stochastic_L)
    for part in parts:  # six rows, as in the rollout
        replayed = replay(policy, part)
        ratio = importance_ratio(replayed.log_prob_N, part.log_prob_N, dimensions=part.trajectory.dimensions)
        assert (ratio - 1).abs().max() <= 1e-5
        assert (importance_ratio(replayed.log_prob_N, part.log_prob_N) - 1).abs().max() <= 1e-3
        assert replayed.kl_N.max() <= 1e-6


def test_rows_fill_up_a_short_batch(policy):
    batch = replace(first(every_pair(policy), 4), rows=6)
    policy.rows_seen.clear()
    replayed = replay(policy, batch)
    assert policy.rows_seen == [6]
    assert replayed.log_prob_N.shape == replayed.kl_N.shape == (4,)
    alone = replay(policy, replace(batch, rows=None))
    torch.testing.assert_close(replayed.log_prob_N, alone.log_prob_N, rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("rows", [None, 32, 64])
def test_rows_of_the_filling_carry_no_gradient(policy, rows):
    gradients = []
    for number in (rows, 30):
        batch = replace(first(every_pair(policy), 20), rows=number)
        for parameter in policy.parameters():
            parameter.grad = None
        replay(policy, batch).log_prob_N.sum().backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in policy.parameters()]))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4 * float(gradients[1].abs().max()))


def test_fewer_rows_than_pairs_are_refused(policy):
    with pytest.raises(ValueError, match="rows"):
        replace(first(every_pair(policy), 4), rows=1)


def test_log_prob_carries_a_gradient_and_kl_none(policy):
    replayed = replay(policy, every_pair(policy))
    assert replayed.log_prob_N.requires_grad
    assert not replayed.kl_N.requires_grad
    replayed.log_prob_N.sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in policy.parameters())


def test_after_a_change_ratio_and_kl_are_those_of_the_new_gaussians(policy):
    other, batch = changed(policy), every_pair(policy)
    with torch.no_grad():
        replayed = replay(other, batch)
        # Second source: the new network in float64 and the DDIM formula's Gaussians by torch.distributions.
        double = copy.deepcopy(other.network).double()
        conditioning = {name: batch.conditioning_N[name].double() for name in batch.conditioning_N}
        x = batch.state_N.double()
        prediction = double_forward(double, x, batch.time_N, conditioning)
    grid = other.forward_process.grid(len(other.kernel))
    a = grid.alpha_bar_T[batch.step_N][:, None, None, None]
    a_next = grid.alpha_bar_next_T[batch.step_N][:, None, None, None]
    if other.forward_process.prediction_type == "epsilon":
        x0_hat = (x - (1 - a).sqrt() * prediction) / a.sqrt()
    elif other.forward_process.prediction_type == "v_prediction":
        x0_hat = a.sqrt() * x - (1 - a).sqrt() * prediction
    else:
        x0_hat = prediction
    # The posterior q(x' | x, x0_hat) of Ho et al., eq. 7, with eta = 1.
    beta = 1 - a / a_next
    mean = a_next.sqrt() * beta / (1 - a) * x0_hat + (a / a_next).sqrt() * (1 - a_next) / (1 - a) * x
    std = ((1 - a_next) / (1 - a) * beta).sqrt()
    new = torch.distributions.Normal(mean, std)
    old = torch.distributions.Normal(batch.mean_N.double(), std)
    expected_log_prob = new.log_prob(batch.next_state_N.double()).flatten(1).sum(1)
    expected_kl = torch.distributions.kl_divergence(old, new).flatten(1).sum(1)
    torch.testing.assert_close(replayed.log_prob_N.double(), expected_log_prob, rtol=2e-5, atol=2e-3)
    torch.testing.assert_close(replayed.kl_N.double(), expected_kl, rtol=1e-3, atol=1e-5)
    ratio = importance_ratio(replayed.log_prob_N, batch.log_prob_N, dimensions=batch.trajectory.dimensions)
    assert (ratio - 1).abs().max() > 1e-4
    assert expected_kl.max() > 1e-3


def double_forward(network, x, timestep, conditioning):
    """The forward pass of `ConvNet` in float64 (its own turns the phase to float32)."""
    phase = timestep.double() / 1000 * torch.pi
    time = network.time(torch.stack([phase.sin(), phase.cos()], 1))[:, :, None, None]
    hidden = torch.nn.functional.silu(network.norm(network.first(x)) + time)
    return network.last(hidden) * conditioning["scale"][:, None, None, None]
