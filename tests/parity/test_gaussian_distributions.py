"""`Gaussian` against `torch.distributions`."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from ddpo.core.gaussian import Gaussian

SHAPES = [(1,), (5,), (4, 8, 8), (2, 3, 4, 5)]


def build(shape: tuple[int, ...], seed: int = 0) -> tuple[Gaussian, torch.Tensor, Independent]:
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn((6, *shape), generator=generator)
    std_B = torch.tensor([0.0206, 0.0395, 0.1, 0.4545, 1.0, 3.0])
    gaussian = Gaussian(mean, std_B)
    x = gaussian.sample(torch.randn(mean.shape, generator=generator))
    scale = std_B.double().reshape(-1, *[1] * len(shape)).expand(mean.shape)
    return gaussian, x, Independent(Normal(mean.double(), scale), len(shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_log_prob_is_the_sum_of_normals(shape):
    gaussian, x, reference = build(shape)
    expected_B = reference.log_prob(x.double())
    assert gaussian.log_prob(x).shape == (6,)
    # Float32 rounds x at 6e-8 |x|, a shift of |z| |x| 6e-8 / std in each dimension: 3e-6 |x| at std 0.0206.
    torch.testing.assert_close(gaussian.log_prob(x).double(), expected_B, rtol=2e-6, atol=2e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_log_prob_in_float64_to_rounding(shape):
    gaussian, x, reference = build(shape)
    double = Gaussian(gaussian.mean.double(), gaussian.std_B.double())
    torch.testing.assert_close(double.log_prob(x.double()), reference.log_prob(x.double()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_kl_is_that_of_torch(shape):
    gaussian, _, reference = build(shape)
    other, _, _ = build(shape, seed=1)
    other_reference = Independent(Normal(other.mean.double(), reference.base_dist.scale), len(shape))
    expected_B = kl_divergence(other_reference, reference)
    torch.testing.assert_close(gaussian.kl(other.mean).double(), expected_B, rtol=2e-6, atol=0)
    torch.testing.assert_close(other.kl(gaussian.mean).double(), expected_B, rtol=2e-6, atol=0)
    assert (gaussian.kl(gaussian.mean) == 0).all()


def test_values_by_hand():
    # N(0, 2^2) at x = (2, 4): -1/2 (1 + 4) - 2 log 2 - log 2 pi; KL to mean (2, 4): (4 + 16) / (2 * 4) = 2.5 nats
    gaussian = Gaussian(torch.zeros(1, 2), torch.tensor([2.0]))
    x = torch.tensor([[2.0, 4.0]])
    assert math.isclose(float(gaussian.log_prob(x)), -2.5 - 2 * math.log(2) - math.log(2 * math.pi), rel_tol=1e-6)
    assert math.isclose(float(gaussian.kl(x)), 2.5, rel_tol=1e-6)


def test_each_row_has_its_own_std():
    gaussian = Gaussian(torch.zeros(2, 3), torch.tensor([0.5, 2.0]))
    noise = torch.tensor([[1.0, 2.0, 3.0]]).expand(2, 3)
    assert gaussian.sample(noise).tolist() == [[0.5, 1.0, 1.5], [2.0, 4.0, 6.0]]
    # At the same z the densities differ by the volume factor 4^3: 3 log 4 nats.
    difference = gaussian.log_prob(gaussian.sample(noise))
    assert math.isclose(float(difference[0] - difference[1]), 3 * math.log(4), rel_tol=1e-6)


def test_log_prob_gradient_is_the_score():
    # d/dmean log N(x; mean, s^2) = (x - mean) / s^2
    gaussian, x, _ = build((4, 3))
    mean = gaussian.mean.double().requires_grad_()
    Gaussian(mean, gaussian.std_B.double()).log_prob(x.double()).sum().backward()
    expected = (x.double() - gaussian.mean.double()) / gaussian.std_B.double()[:, None, None].square()
    torch.testing.assert_close(mean.grad, expected, rtol=1e-12, atol=1e-12)
