"""Rollout: seeds make the samples, whatever the batch; stored log-probabilities are those of the stored steps."""

from __future__ import annotations

import math
from itertools import islice

import pytest
import torch

from ddpo.core.conditioning import Conditioning
from ddpo.core.prompt import Prompt
from ddpo.core.rollout import denoising_step, noise_stream, rollout

CPU = torch.device("cpu")
SEEDS = [7, 1, 42, 7, 5]
PROMPTS = [Prompt(text) for text in ("a", "cat", "owl", "a", "elephant")]


@pytest.fixture(scope="module", params=[True, False], ids=["deterministic_end", "stochastic_end"])
def policy(request, conv_policy, ddim_config):
    return conv_policy(ddim_config(set_alpha_to_one=request.param), steps=6)


@pytest.fixture(scope="module")
def trajectory(policy):
    return rollout(policy, policy.encode(PROMPTS), SEEDS, batch_size=5)


def test_noise_is_one_generator_a_seed():
    stream = noise_stream([3, 4], (2, 5), CPU)
    draws = torch.stack(list(islice(stream, 4)), 1)  # (2 seeds, 4 draws, 2, 5)
    for row, seed in enumerate([3, 4]):
        generator = torch.Generator().manual_seed(seed)
        expected = torch.stack([torch.randn((2, 5), generator=generator) for _ in range(4)])
        assert torch.equal(draws[row], expected)


def test_noise_does_not_depend_on_the_batch():
    together = list(islice(noise_stream([3, 4, 5], (2, 5), CPU), 3))
    alone = list(islice(noise_stream([4], (2, 5), CPU), 3))
    reordered = list(islice(noise_stream([5, 4], (2, 5), CPU), 3))
    for whole, one, other in zip(together, alone, reordered, strict=True):
        assert torch.equal(whole[1], one[0])
        assert torch.equal(whole[[2, 1]], other)


def test_noise_is_standard_normal_and_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    draws = torch.stack(list(islice(noise_stream(range(50), (400,), CPU), 5)))  # 100,000 numbers
    assert torch.equal(torch.get_rng_state(), before)
    # Standard errors: mean 1/sqrt(1e5) = 0.0032, variance sqrt(2/1e5) = 0.0045, correlation 1/sqrt(2e4) = 0.0071.
    assert abs(draws.mean().item()) < 4 * 0.0032
    assert abs(draws.var().item() - 1) < 4 * 0.0045
    assert abs((draws[0] * draws[1]).mean().item()) < 4 * 0.0071
    assert abs((draws[0, 0] * draws[0, 1]).mean().item()) < 4 / math.sqrt(400)


def test_shapes(policy, trajectory):
    steps = len(policy.kernel.stochastic_L)
    assert trajectory.states.shape == (5, 7, 3, 8, 8)
    assert trajectory.means.shape == (5, steps, 3, 8, 8)
    assert trajectory.log_prob_BL.shape == (5, steps)
    tensors = (trajectory.states, trajectory.means, trajectory.log_prob_BL)
    assert all(tensor.dtype == torch.float32 and not tensor.requires_grad for tensor in tensors)


def test_a_step_is_its_mean_plus_its_std_times_the_noise_of_the_seed(policy, trajectory):
    for row, seed in enumerate(SEEDS):
        generator = torch.Generator().manual_seed(seed)
        noise = [torch.randn(policy.sample_shape, generator=generator) for _ in range(7)]
        assert torch.equal(trajectory.states[row, 0], noise[0])
        for step in policy.kernel.stochastic_L.tolist():
            std = float(policy.kernel.std_T[step])
            expected = trajectory.means[row, step] + std * noise[step + 1]
            torch.testing.assert_close(trajectory.states[row, step + 1], expected, rtol=1e-6, atol=1e-6)


def test_log_prob_is_the_density_of_the_stored_step(policy, trajectory):
    for step in policy.kernel.stochastic_L.tolist():
        std = policy.kernel.std_T[step]
        normal = torch.distributions.Normal(trajectory.means[:, step].double(), std)
        expected_B = normal.log_prob(trajectory.states[:, step + 1].double()).flatten(1).sum(1)
        torch.testing.assert_close(trajectory.log_prob_BL[:, step].double(), expected_B, rtol=2e-5, atol=1e-3)


def test_equal_seed_and_prompt_give_equal_samples_and_others_differ(trajectory):
    assert torch.equal(trajectory.states[0], trajectory.states[3])
    assert not torch.allclose(trajectory.final[0], trajectory.final[1], atol=0.1)


def test_the_conditioning_reaches_the_network(policy, trajectory):
    other = rollout(policy, policy.encode([*PROMPTS[:3], Prompt("bee"), PROMPTS[4]]), SEEDS, batch_size=5)
    assert torch.equal(other.states[:3], trajectory.states[:3])
    assert torch.equal(other.states[3, 0], trajectory.states[3, 0])
    assert not torch.allclose(other.final[3], trajectory.final[3], atol=1e-3)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 8])
def test_the_batch_size_does_not_change_the_samples(policy, trajectory, batch_size):
    policy.rows_seen.clear()
    done = []
    other = rollout(policy, policy.encode(PROMPTS), SEEDS, batch_size=batch_size, progress=done.append)
    scale = float(trajectory.states.abs().max())
    torch.testing.assert_close(other.states, trajectory.states, rtol=1e-6, atol=2e-6 * scale)
    torch.testing.assert_close(other.means, trajectory.means, rtol=1e-6, atol=2e-6 * scale)
    torch.testing.assert_close(other.log_prob_BL, trajectory.log_prob_BL, rtol=1e-5, atol=1e-3)
    assert torch.equal(other.conditioning["scale"], trajectory.conditioning["scale"])
    # Every pass has exactly batch_size rows, a short last batch included; progress counts real samples.
    assert set(policy.rows_seen) == {batch_size}
    assert done == [min(start + batch_size, 5) for start in range(0, 5, batch_size)]


def test_one_by_one_filled_up_to_the_same_rows_is_the_same(policy):
    # Filled up to the same number of rows: the case of a resumed run, another rank or a short last batch.
    conditioning = policy.encode(PROMPTS)
    whole = rollout(policy, conditioning, SEEDS, batch_size=4)
    for row, seed in enumerate(SEEDS):
        alone = rollout(policy, conditioning.take(slice(row, row + 1)), [seed], batch_size=4)
        torch.testing.assert_close(alone.states[0], whole.states[row], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(alone.log_prob_BL[0], whole.log_prob_BL[row], rtol=1e-6, atol=1e-3)


def test_a_deterministic_last_step_returns_its_mean(conv_policy, ddim_config):
    policy = conv_policy(ddim_config(set_alpha_to_one=True), steps=4)
    trajectory = rollout(policy, policy.encode(PROMPTS[:2]), [1, 2], batch_size=2)
    with torch.no_grad():
        last = denoising_step(policy, trajectory.states[:, 3], torch.tensor([3, 3]), trajectory.conditioning)
    torch.testing.assert_close(trajectory.final, last.mean, rtol=1e-6, atol=1e-6)
    assert trajectory.log_prob_BL.shape == (2, 3)
    assert torch.isfinite(trajectory.log_prob_BL).all()


def test_no_conditioning_is_fine(conv_policy, ddim_config):
    policy = conv_policy(ddim_config(), steps=3)
    trajectory = rollout(policy, Conditioning.none(3), [1, 2, 3], batch_size=2)
    assert (len(trajectory.conditioning), list(trajectory.conditioning)) == (3, [])
    assert trajectory.states.shape == (3, 4, 3, 8, 8)
