"""The objectives against their formulas worked out by hand, values and gradients (paper eq. 3, eq. 4, C.3)."""

from __future__ import annotations

import math

import pytest
import torch

from ddpo.core.objectives import clipped_surrogate, importance_ratio, score_function

CLIP = 0.2


def tensor(*values: float, grad: bool = False) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def surrogate_and_gradient(log_ratio: float, advantage: float, **options: float) -> tuple[float, float]:
    """Loss of one pair, and its derivative with respect to log p."""
    log_prob = tensor(log_ratio - 3.0, grad=True)
    loss, _ = clipped_surrogate(log_prob, tensor(-3.0), tensor(advantage), **({"clip_range": CLIP} | options))
    loss.backward()
    return loss.item(), log_prob.grad.item()


def test_score_function_by_hand():
    # -(2 * -1 + -1 * -3 + 0.5 * 4) / 3 = -(−2 + 3 + 2)/3 = -1; d/dlog p = -A/3
    log_prob = tensor(-1.0, -3.0, 4.0, grad=True)
    loss, metrics = score_function(log_prob, tensor(2.0, -1.0, 0.5))
    loss.backward()
    assert math.isclose(loss.item(), -1.0, rel_tol=1e-12)
    torch.testing.assert_close(log_prob.grad, tensor(-2 / 3, 1 / 3, -0.5 / 3), rtol=1e-12, atol=0)
    assert metrics == {}


def test_score_function_divides_by_dimensions():
    # -(2 * -8 + 4 * -16) / 2 / 8 = 5
    loss, _ = score_function(tensor(-8.0, -16.0), tensor(2.0, 4.0), dimensions=8)
    assert math.isclose(loss.item(), 5.0, rel_tol=1e-12)


def test_ratio_by_hand():
    # log ratio 1 -> e; 0 -> 1; -log 2 -> 1/2; over 4 dimensions a difference of 4 nats -> e
    ratio = importance_ratio(tensor(-2.0, 5.0, -math.log(2)), tensor(-3.0, 5.0, 0.0))
    torch.testing.assert_close(ratio, tensor(math.e, 1.0, 0.5), rtol=1e-12, atol=0)
    assert math.isclose(importance_ratio(tensor(1.0), tensor(-3.0), dimensions=4).item(), math.e, rel_tol=1e-12)


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "loss", "gradient"),
    [
        # Loss max(-A rho, -A clip(rho)); where the first is chosen, d/dlog p = -A rho, else 0.
        # rho = e > 1.2, A = 1: max(-e, -1.2) = -1.2, clipped: no gradient.
        (1.0, 1.0, -1.2, 0.0),
        # rho = e, A = -1: max(e, 1.2) = e, the pessimistic side keeps its gradient e.
        (1.0, -1.0, math.e, math.e),
        # rho = 1/e < 0.8, A = 1: max(-1/e, -0.8) = -1/e, gradient -1/e.
        (-1.0, 1.0, -1 / math.e, -1 / math.e),
        # rho = 1/e, A = -1: max(1/e, 0.8) = 0.8, clipped.
        (-1.0, -1.0, 0.8, 0.0),
        # Inside the range nothing is clipped: rho = 1.1 and 0.9.
        (math.log(1.1), 1.0, -1.1, -1.1),
        (math.log(1.1), -1.0, 1.1, 1.1),
        (math.log(0.9), 1.0, -0.9, -0.9),
        (math.log(0.9), -1.0, 0.9, 0.9),
        # rho = 1, both branches tie: the gradient is the whole -A, once.
        (0.0, 1.0, -1.0, -1.0),
        (0.0, -2.0, 2.0, 2.0),
        # No advantage, no loss.
        (1.0, 0.0, 0.0, 0.0),
    ],
)
def test_clipped_surrogate_by_hand(log_ratio, advantage, loss, gradient):
    value, slope = surrogate_and_gradient(log_ratio, advantage)
    assert math.isclose(value, loss, rel_tol=1e-12, abs_tol=1e-15)
    assert math.isclose(slope, gradient, rel_tol=1e-12, abs_tol=1e-15)


def test_clipped_surrogate_is_a_mean_over_pairs():
    # The four corners above: (-1.2 + e - 1/e + 0.8) / 4; each of them lies outside the range.
    old = tensor(0.0, 0.0, 0.0, 0.0)
    loss, metrics = clipped_surrogate(tensor(1.0, 1.0, -1.0, -1.0), old, tensor(1.0, -1.0, 1.0, -1.0), clip_range=CLIP)
    assert math.isclose(loss.item(), (-1.2 + math.e - 1 / math.e + 0.8) / 4, rel_tol=1e-12)
    assert metrics["clip_fraction"].tolist() == [1, 1, 1, 1]
    _, metrics = clipped_surrogate(tensor(1.0, 0.1, -0.1, -1.0), old, old + 1, clip_range=CLIP)
    assert metrics["clip_fraction"].tolist() == [1, 0, 0, 1]


def test_metrics_carry_no_gradient():
    log_prob = tensor(0.5, grad=True)
    _, metrics = clipped_surrogate(log_prob, tensor(0.0), tensor(1.0), clip_range=CLIP)
    assert not metrics["clip_fraction"].requires_grad


@pytest.mark.parametrize("dimensions", [1, 4, 1024, 16384])
@pytest.mark.parametrize("sign", [1, -1])
def test_clip_range_over_dimensions_is_a_clip_in_nats(dimensions, sign):
    # REFERENCE 2: clip_range = clip_nats / D bounds |log p - log p_old| by D log(1 + clip_nats/D) = about clip_nats,
    # e.g. 1.64 nats for 1e-4 at D = 16384, 0.1 at D = 1024.
    clip_nats = 1e-4 * 16384
    clip_range = clip_nats / dimensions if dimensions > 1 else 0.5
    bound = abs(dimensions * math.log1p(sign * clip_range))
    if dimensions >= 1024:
        assert math.isclose(bound, clip_nats, rel_tol=1e-3)
    for factor, clipped in ((0.999, 0.0), (1.001, 1.0)):
        log_prob = tensor(sign * factor * bound, grad=True)
        loss, metrics = clipped_surrogate(
            log_prob, tensor(0.0), tensor(float(sign)), clip_range=clip_range, dimensions=dimensions
        )
        loss.backward()
        assert metrics["clip_fraction"].item() == clipped
        assert (log_prob.grad.item() == 0) == bool(clipped)


@pytest.mark.parametrize("dimensions", [1, 64])
@pytest.mark.parametrize("clip_range", [1e-4, 0.2])
def test_gradients_of_both_objectives_agree_on_policy(dimensions, clip_range):
    # REFERENCE 17: at rho = 1 the gradient of A rho is A grad log p.
    generator = torch.Generator().manual_seed(0)
    log_prob, advantage = torch.randn((2, 9), generator=generator, dtype=torch.float64)
    gradients = []
    for objective in (
        lambda p: score_function(p, advantage, dimensions=dimensions),
        lambda p: clipped_surrogate(p, log_prob, advantage, clip_range=clip_range, dimensions=dimensions),
    ):
        leaf = log_prob.clone().requires_grad_()
        objective(leaf)[0].backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[0], -advantage / 9 / dimensions, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-12, atol=0)


def test_surrogate_is_pessimistic():
    # The clipped objective never promises more than the unclipped one: loss >= -A rho for every pair.
    generator = torch.Generator().manual_seed(1)
    for log_prob, old, advantage in torch.randn((50, 3, 1), generator=generator, dtype=torch.float64):
        clipped, _ = clipped_surrogate(log_prob, old, advantage, clip_range=CLIP)
        unclipped, metrics = clipped_surrogate(log_prob, old, advantage, clip_range=1e9)
        assert clipped >= unclipped
        assert metrics["clip_fraction"] == 0
        assert math.isclose(unclipped.item(), -advantage.item() * math.exp(log_prob.item() - old.item()), rel_tol=1e-12)


@pytest.mark.parametrize("advantage", [0.0, 1.0])
def test_a_ratio_beyond_float32_is_clipped_like_any_other(advantage):
    # log rho = 100 > log(3.4e38) = 88.7; A = 1: clipped, loss -1.2 and no gradient; A = 0: nothing.
    log_prob = torch.tensor([100.0], requires_grad=True)
    loss, _ = clipped_surrogate(log_prob, torch.zeros(1), torch.tensor([advantage]), clip_range=CLIP)
    loss.backward()
    assert math.isclose(loss.item(), -1.2 * advantage, rel_tol=1e-6)
    assert log_prob.grad.item() == 0


@pytest.mark.parametrize("shapes", [((3,), (2,)), ((3, 1), (3, 1)), ((3, 1), (3,)), ((), ()), ((3,), (3, 2))], ids=str)
def test_wrong_shapes_are_refused(shapes):
    first, second = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match="tensors of one length"):
        score_function(first, second)
    with pytest.raises(ValueError, match="tensors of one length"):
        importance_ratio(first, second)
    with pytest.raises(ValueError, match="tensors of one length"):
        clipped_surrogate(first, first, second, clip_range=CLIP)
    with pytest.raises(ValueError, match="tensors of one length"):
        clipped_surrogate(first, second, first, clip_range=CLIP)
