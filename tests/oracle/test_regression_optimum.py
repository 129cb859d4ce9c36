"""One round of reward-weighted regression on a linear denoiser ends where weighted least squares does."""

from __future__ import annotations

import pytest
import torch
from linear_gaussian import START, LinearGaussianPolicy, kernel, regression_optimum

from ddpo.algorithms import RewardWeightedRegression, SparseRewardWeightedRegression
from ddpo.core.conditioning import Conditioning
from ddpo.core.minibatches import noised_samples

NUMBER = 2000


@pytest.mark.parametrize(
    "algorithm",
    [
        RewardWeightedRegression(beta=1.0, reweighting="dataset"),
        RewardWeightedRegression(beta=0.0),
        SparseRewardWeightedRegression(percentile=0.8),
    ],
    ids=["rwr", "rwr-beta-0", "rwr-sparse"],
)
def test_one_round_finds_the_weighted_least_squares_solution(algorithm):
    clean = torch.tensor([0.5, -1.0]) + 0.7 * torch.randn(NUMBER, 2, generator=torch.Generator().manual_seed(1))
    weight_B = torch.from_numpy(algorithm.weights(["a"] * NUMBER, clean[:, 0].double().numpy())).float()
    policy = LinearGaussianPolicy(kernel(5, 1.0, set_alpha_to_one=False), START)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=2e-2, weight_decay=0)
    late = []
    minibatches = noised_samples(
        clean,
        Conditioning.none(NUMBER),
        weight_B,
        policy.forward_process,
        number=1200,
        size=512,
        generator=torch.Generator().manual_seed(2),
    )
    for number, batch in enumerate(minibatches):
        optimizer.zero_grad()
        algorithm.loss(policy, batch)[0].backward()
        optimizer.step()
        late += [torch.stack([policy.weight, policy.bias]).detach()] if number >= 400 else []
    found = torch.stack(late).mean(0)  # the average over steps leaves the noise of single updates out
    expected = torch.stack(list(regression_optimum(clean, weight_B))).float()
    assert (torch.stack(list(START)).float() - expected).abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=0.01)


def test_weights_move_the_optimum():
    clean = torch.randn(NUMBER, 2, generator=torch.Generator().manual_seed(1))
    even, tilted = (regression_optimum(clean, w) for w in (torch.ones(NUMBER), torch.exp(clean[:, 0])))
    assert (tilted.bias - even.bias)[0].abs() > 0.1
    assert (tilted.bias - even.bias)[1].abs() < 0.05
