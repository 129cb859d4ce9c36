"""Flow matching against closed forms, diffusers and torch.distributions."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from ddpo.config import parse_config
from ddpo.core.flow import RectifiedFlow, flow_cps, flow_dance, flow_ddim, flow_sde
from ddpo.core.forward_process import VariancePreserving
from ddpo.core.prompt import Prompt
from ddpo.core.rollout import replay, rollout
from ddpo.core.trajectory import Pairs
from ddpo.evaluation.loading import kernel_factory
from ddpo.runtime.errors import ConfigError

KERNELS = {"sde": flow_sde, "dance": flow_dance, "ddim": flow_ddim, "cps": flow_cps}


def moments(kernel, sigmas, mean, std):
    """Return mean and standard deviation of what a kernel draws where the data are N(mean, std^2).

    The exact velocity is linear in x then, so a step takes a normal distribution to one.
    """
    mu, variance = 0.0, 1.0
    for step, sigma in enumerate(sigmas[:-1].tolist()):
        a, b, noise = (float(column[step]) for column in (kernel.x_T, kernel.prediction_T, kernel.std_T))
        gain = (1 - sigma) * std**2 / ((1 - sigma) ** 2 * std**2 + sigma**2)  # E[x_0 | x] = mean + gain (x - ...)
        of_x, constant = (1 - gain) / sigma, -(mean - gain * (1 - sigma) * mean) / sigma
        mu = a * mu + b * (of_x * mu + constant)
        variance = (a + b * of_x) ** 2 * variance + noise**2
    return mu, math.sqrt(variance)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sde", (0.419, 0.492, 0.500)),
        ("dance", (0.377, 0.487, 0.500)),
        ("ddim", (0.330, 0.467, 0.500)),
        ("cps", (0.328, 0.408, 0.426)),  # it does not keep the marginals, with any number of steps
    ],
)
def test_what_is_drawn_of_normal_data_tends_to_the_data(name, expected):
    flow = RectifiedFlow(shift=3.0)
    for steps, deviation in zip((10, 100, 10_000), expected, strict=True):
        mean, std = moments(KERNELS[name](flow, steps), flow.sigmas(steps), 1.0, 0.5)
        assert std == pytest.approx(deviation, abs=6e-4)
        assert mean == pytest.approx(1.0, abs=0.11 if steps == 10 else 0.02)


def test_a_step_of_the_sde_is_that_of_its_paper():
    # Flow-GRPO: x + [v + s_t^2 / (2 t) (x + (1 - t) v)] dt + s_t sqrt(-dt) eps with s_t = a sqrt(t / (1 - t)), t from
    # 1 to 0 and dt negative.
    kernel, x, v = flow_sde(RectifiedFlow(), 10), torch.randn(4, 3), torch.randn(4, 3)
    t, dt = 0.6, -0.1
    g = 0.7 * math.sqrt(t / (1 - t))
    gaussian = kernel.gaussian(x, v, torch.full((4,), 4))
    torch.testing.assert_close(gaussian.mean, x + (v + g**2 / (2 * t) * (x + (1 - t) * v)) * dt)
    torch.testing.assert_close(gaussian.std_B, torch.full((4,), g * math.sqrt(-dt)))


def test_cps_at_level_1_is_diffusers_stochastic_sampling():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, stochastic_sampling=True)
    scheduler.set_timesteps(8)
    flow = RectifiedFlow(grid=lambda steps: scheduler.sigmas.double())
    kernel, x = flow_cps(flow, 8, level=1.0), torch.randn(2, 3, 4, 4)
    for step, time in enumerate(scheduler.timesteps):
        assert float(kernel.time(torch.tensor(step))) == pytest.approx(float(time))
        v, generator = torch.randn(2, 3, 4, 4), torch.Generator().manual_seed(step)
        theirs = scheduler.step(v, time, x, generator=torch.Generator().manual_seed(step)).prev_sample
        noise = torch.randn(x.shape, generator=generator)
        torch.testing.assert_close(
            kernel.gaussian(x, v, torch.full((2,), step)).sample(noise), theirs, rtol=0, atol=2e-6
        )
        x = theirs


@pytest.mark.parametrize("name", KERNELS)
def test_the_last_step_is_deterministic_and_a_window_takes_more(name):
    flow, make = RectifiedFlow(), KERNELS[name]
    kernel = make(flow, 6)
    assert kernel.stochastic_L.tolist() == [0, 1, 2, 3, 4]
    x, v = torch.randn(1, 3), torch.randn(1, 3)
    torch.testing.assert_close(kernel.gaussian(x, v, torch.tensor([5])).mean, x - v / 6)
    windowed = make(flow, 6, window=(1, 3))
    assert windowed.stochastic_L.tolist() == [1, 2]
    torch.testing.assert_close(windowed.std_T[1:3], kernel.std_T[1:3])
    torch.testing.assert_close(windowed.gaussian(x, v, torch.tensor([3])).mean, x - v / 6)


@pytest.mark.parametrize("name", KERNELS)
def test_replay_is_exact_and_the_density_that_of_torch(name, conv_policy, ddim_config):
    policy = conv_policy(ddim_config(), steps=3)
    policy.kernel = KERNELS[name](RectifiedFlow(shift=3.0), 5)
    drawn = rollout(policy, policy.encode([Prompt("a cat")] * 3), range(3), batch_size=3)
    assert drawn.log_prob_BL.shape == (3, 4)
    for index in range(4):
        pairs = Pairs(drawn, torch.arange(3), torch.full((3,), index), torch.zeros(3))
        assert torch.equal(replay(policy, pairs).log_prob_N.detach(), drawn.log_prob_BL[:, index])
        normal = torch.distributions.Normal(drawn.means[:, index].double(), float(policy.kernel.std_T[index]))
        expected_B = normal.log_prob(drawn.states[:, index + 1].double()).flatten(1).sum(1)
        torch.testing.assert_close(drawn.log_prob_BL[:, index].double(), expected_B, rtol=2e-6, atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"level": 0.0}, "sampler.level: 0 is not above 0"),
        ({"window": (3, 3)}, r"sampler.window: \[3, 3\] holds none of the first 5 of 6 steps"),
        ({"window": (5, 6)}, "sampler.window"),
    ],
)
def test_a_kernel_without_a_likelihood_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        flow_sde(RectifiedFlow(), 6, **settings)


@pytest.mark.parametrize("make", [flow_ddim, flow_cps])
def test_a_step_adds_no_more_noise_than_it_ends_with(make):
    flow = RectifiedFlow(shift=3.0)
    assert (make(flow, 6, level=1.0).std_T <= flow.sigmas(6)[1:]).all()
    with pytest.raises(ConfigError, match=r"sampler\.level: 1\.5 is above 1"):
        make(flow, 6, level=1.5)


def test_noise_levels_must_fall_to_0():
    with pytest.raises(ConfigError, match="the noise levels of 3 steps do not fall"):
        RectifiedFlow(grid=lambda steps: torch.tensor([1.0, 0.5, 0.6, 0.0])).sigmas(3)


class TestForwardProcess:
    def test_the_target_takes_a_noised_sample_back(self):
        flow, generator = RectifiedFlow(shift=3.0), torch.Generator().manual_seed(0)
        x_0, noise = torch.randn(5, 3, 4, 4), torch.randn(5, 3, 4, 4)
        time_N = flow.draw_time(5, generator)
        sigma = (time_N / 1000).reshape(-1, 1, 1, 1)
        x = flow.noised(x_0, noise, time_N)
        torch.testing.assert_close(x - sigma * flow.target(x_0, noise, time_N), x_0)
        torch.testing.assert_close(x + (1 - sigma) * flow.target(x_0, noise, time_N), noise)

    def test_times_are_uniform_before_they_are_shifted(self):
        flow = RectifiedFlow(shift=3.0)
        time_N = flow.draw_time(20_000, torch.Generator().manual_seed(0))
        assert time_N.min() >= 0
        assert time_N.max() <= 1000
        cleanness_N = flow.cleanness(time_N)
        assert cleanness_N.min() >= 0
        assert cleanness_N.max() < 1
        counted = torch.histc(cleanness_N, bins=5, min=0, max=1) / 20_000
        torch.testing.assert_close(counted, torch.full_like(counted, 0.2), atol=0.01, rtol=0)


class TestInAConfiguration:
    def test_every_sampler_has_its_level_unless_another_is_given(self):
        flow = RectifiedFlow(shift=3.0)
        for name, make in KERNELS.items():
            for level in ({}, {"level": 0.5}):
                sampler = parse_config({"sampler": {"name": f"flow-{name}", "steps": 6, **level}}).sampler
                kernel = kernel_factory(sampler)(flow)
                torch.testing.assert_close(kernel.std_T, make(flow, 6, **level).std_T)
        sampler = parse_config({"sampler": {"name": "flow-sde", "steps": 6, "window": [1, 3]}}).sampler
        assert kernel_factory(sampler)(flow).stochastic_L.tolist() == [1, 2]

    def test_a_sampler_of_the_other_kind_of_model_is_refused(self):
        diffusion = kernel_factory(parse_config({}).sampler)
        flow = kernel_factory(parse_config({"sampler": "flow-sde"}).sampler)
        with pytest.raises(ConfigError, match=r"sampler.name: this model is of flow matching: use flow-sde"):
            diffusion(RectifiedFlow())
        with pytest.raises(ConfigError, match=r"sampler.name: this model is of diffusion, not flow matching: use ddim"):
            flow(VariancePreserving.cosine())
        with pytest.raises(ConfigError, match="level and window are of flow-sde"):
            parse_config({"sampler": {"name": "ddim", "level": 0.7}})
