"""The divergence of trajectories from the base model against closed forms of the linear-Gaussian chain."""

from __future__ import annotations

import math

import pytest
import torch
from linear_gaussian import START, Chain, LinearGaussianPolicy, Parameters, kernel

from ddpo.core.conditioning import Conditioning
from ddpo.core.rollout import rollout
from ddpo.evaluation.divergence import kl_to_base

NUMBER = 4000
STEPS = 5


@pytest.fixture
def policy():
    return LinearGaussianPolicy(kernel(STEPS, 1.0, set_alpha_to_one=True), START)


def move(policy: LinearGaussianPolicy, theta: Parameters) -> None:
    with torch.no_grad():
        policy.weight.copy_(theta.weight)
        policy.bias.copy_(theta.bias)


def test_each_trajectory_has_the_divergence_of_its_steps(policy):
    # Means differ by of_eps (dw x + db): KL = |that|^2 / (2 sigma^2), summed over the steps that have a sigma; the
    # chain ends with a deterministic step, which is left out.
    move(policy, START.moved(0.1))
    trajectory = rollout(policy, Conditioning.none(NUMBER), range(NUMBER), batch_size=NUMBER)
    kl_B = kl_to_base(policy, trajectory, batch_size=NUMBER)
    chain, new = Chain.create(STEPS, 1.0, set_alpha_to_one=True), START.moved(0.1)
    assert chain.length == STEPS - 1
    dw, db = new.weight - START.weight, new.bias - START.bias
    expected_B = torch.zeros(NUMBER, dtype=torch.float64)
    for step in range(chain.length):
        x = trajectory.states[:, step].double()
        scale = chain.of_eps_T[step].square() / (2 * chain.sigma_T[step].square())
        expected_B += scale * (dw * x + db).square().sum(1)
    torch.testing.assert_close(kl_B, expected_B, rtol=1e-4, atol=1e-6)


def test_the_mean_is_the_divergence_of_the_two_chains(policy):
    # KL of the joint distributions: the expectation of each step's KL under the present chain's moments (chain rule).
    new = START.moved(0.1)
    move(policy, new)
    trajectory = rollout(policy, Conditioning.none(NUMBER), range(NUMBER), batch_size=NUMBER)
    kl_B = kl_to_base(policy, trajectory, batch_size=NUMBER)
    chain = Chain.create(STEPS, 1.0, set_alpha_to_one=True)
    means, variances = chain.moments([new] * STEPS)
    dw, db = new.weight - START.weight, new.bias - START.bias
    expected = sum(
        chain.of_eps_T[step].square()
        / (2 * chain.sigma_T[step].square())
        * (dw**2 * (variances[step] + means[step] ** 2) + 2 * dw * db * means[step] + db**2).sum()
        for step in range(chain.length)
    )
    assert expected > 0.01
    assert abs(kl_B.mean() - expected) <= 4 * kl_B.std() / math.sqrt(NUMBER)


def test_it_is_exactly_0_before_training_and_leaves_every_bit_in_place(policy):
    unmoved = rollout(policy, Conditioning.none(7), range(7), batch_size=4)
    assert torch.equal(kl_to_base(policy, unmoved, batch_size=4), torch.zeros(7, dtype=torch.float64))
    move(policy, START.moved(0.1))
    before = [parameter.detach().clone() for parameter in policy.parameters()]
    moved = rollout(policy, Conditioning.none(7), range(7), batch_size=4)
    assert (kl_to_base(policy, moved, batch_size=4) > 0).all()
    assert all(torch.equal(old, new) for old, new in zip(before, policy.parameters(), strict=True))


def test_short_batches_give_the_same(policy):
    move(policy, START.moved(0.1))
    trajectory = rollout(policy, Conditioning.none(7), range(7), batch_size=7)
    whole = kl_to_base(policy, trajectory, batch_size=7)
    torch.testing.assert_close(kl_to_base(policy, trajectory, batch_size=3), whole, rtol=1e-6, atol=0)


def test_the_context_puts_the_base_in_and_takes_it_out_even_when_it_fails(policy):
    weight = START.weight.float()
    move(policy, START.moved(0.1))
    moved = policy.weight.detach().clone()
    seen = []

    def fail() -> None:
        with policy.base_model():
            seen.append(policy.weight.detach().clone())
            raise RuntimeError("in between")

    with pytest.raises(RuntimeError, match="in between"):
        fail()
    assert torch.equal(seen[0], weight)
    assert torch.equal(policy.weight, moved)
    assert not torch.equal(moved, weight)
