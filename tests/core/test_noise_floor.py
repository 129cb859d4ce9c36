"""The noise of the arithmetic: its size where it is known, and nothing where arithmetic is exact."""

from __future__ import annotations

import pytest
import torch

from ddpo.core.noise_floor import noise_floor
from ddpo.core.prompt import Prompt
from ddpo.core.rollout import replay, rollout
from ddpo.core.trajectory import Pairs


@pytest.fixture
def drawn(conv_policy, ddim_config):
    """Return a policy and all pairs of 40 of its samples."""
    policy = conv_policy(ddim_config(), steps=4)
    trajectory = rollout(policy, policy.encode([Prompt("a cat")] * 40), range(40), batch_size=40)
    samples, steps = torch.arange(40).repeat_interleave(4), torch.arange(4).repeat(40)
    return policy, Pairs(trajectory, samples, steps, torch.zeros(40), rows=160)


def noise_of(policy, pairs):
    """Return the noise in the log-probabilities, nats."""

    def log_prob_of(one):
        return replay(one, pairs).log_prob_N.detach()

    return noise_floor(policy, log_prob_of, log_prob_of(policy))


def test_a_prediction_on_a_grid_has_the_noise_of_the_grid(drawn, monkeypatch):
    policy, pairs = drawn
    step, exact = 1e-3, policy.predict

    def on_a_grid(x, time_B, conditioning, *, guided):
        # the shift of the inputs is far smaller than the grid: round at a place of its own for each input
        place = torch.frac(x.double() * 1e7).float()
        return step * (torch.round(exact(x, time_B, conditioning, guided=guided) / step + place) - place)

    monkeypatch.setattr(policy, "predict", on_a_grid)
    # uniform over a step: variance step^2 / 12 for each of D numbers, times (b / std)^2 and the z^2 of the stored step
    kernel, D = policy.kernel, pairs.trajectory.dimensions
    sensitivity_N = (kernel.prediction_T / kernel.std_T)[pairs.step_N].float()
    expected = float((sensitivity_N.square() * D * step**2 / 12).mean().sqrt())
    assert float(noise_of(policy, pairs).square().mean().sqrt()) == pytest.approx(expected, rel=0.2)


def test_float32_has_hardly_any_and_a_smooth_change_counts_as_none(drawn):
    assert float(noise_of(*drawn).max()) < 1e-3


def test_nothing_of_the_policy_is_changed(drawn):
    policy, pairs = drawn
    before = replay(policy, pairs).log_prob_N
    noise_of(policy, pairs)
    assert torch.equal(replay(policy, pairs).log_prob_N, before)
