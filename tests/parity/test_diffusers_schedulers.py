"""Schedules and kernels against diffusers' own schedulers, their tables turned to float64 where that is possible."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, PNDMScheduler
from diffusers.utils.torch_utils import randn_tensor

from ddpo.core.kernel import ancestral, ancestral_mean, ddim, ddim_mean, posterior_std
from ddpo.core.prompt import Prompt
from ddpo.core.rollout import rollout
from ddpo.policies.schedule import read_schedule
from ddpo.runtime.errors import ConfigError, ModelError

SPACINGS = ("leading", "trailing", "linspace")
PREDICTIONS = ("epsilon", "v_prediction", "sample")
B, SHAPE = 3, (2, 3)


def noise64(seed: int, number: int) -> torch.Tensor:
    """`(number, B, 2, 3)` float64 standard normal numbers that float32 holds exactly."""
    return torch.randn((number, B, *SHAPE), generator=torch.Generator().manual_seed(seed)).double()


def in_float64(scheduler: DDIMScheduler) -> DDIMScheduler:
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.final_alpha_cumprod = torch.as_tensor(scheduler.final_alpha_cumprod).double()
    return scheduler


def of_step(step: int) -> torch.Tensor:
    return torch.full((B,), step)


GRIDS = list(itertools.product((0, 1), (True, False), SPACINGS))


@pytest.mark.parametrize(("steps_offset", "set_alpha_to_one", "spacing"), GRIDS)
@pytest.mark.parametrize("steps", [1, 7, 10, 50, 999])
def test_timesteps_are_those_of_diffusers(ddim_config, steps, steps_offset, set_alpha_to_one, spacing):
    config = ddim_config(steps_offset=steps_offset, set_alpha_to_one=set_alpha_to_one, timestep_spacing=spacing)
    scheduler = DDIMScheduler.from_config(config)
    scheduler.set_timesteps(steps)
    grid = read_schedule(config).grid(steps)
    assert grid.timestep_T.tolist() == scheduler.timesteps.tolist()
    assert len(grid.timestep_T) == steps


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize(("steps_offset", "set_alpha_to_one", "spacing"), GRIDS)
def test_ddim_mean_and_std_equal_diffusers_at_every_step(
    ddim_config, steps_offset, set_alpha_to_one, spacing, eta, prediction_type
):
    config = ddim_config(
        steps_offset=steps_offset,
        set_alpha_to_one=set_alpha_to_one,
        timestep_spacing=spacing,
        prediction_type=prediction_type,
    )
    scheduler = in_float64(DDIMScheduler.from_config(config))
    scheduler.set_timesteps(10)
    kernel = ddim(read_schedule(config), 10, eta)
    x, prediction = noise64(0, 2)
    ones = torch.ones_like(x)
    for step, timestep in enumerate(scheduler.timesteps.tolist()):
        # With variance_noise 0 diffusers returns the mean, with 1 the mean plus the standard deviation.
        mean, mean_plus_std = (
            scheduler.step(prediction, timestep, x, eta=eta, variance_noise=noise).prev_sample
            for noise in (torch.zeros_like(x), ones)
        )
        gaussian = kernel.gaussian(x.float(), prediction.float(), of_step(step))
        torch.testing.assert_close(gaussian.mean.double(), mean, rtol=1e-6, atol=1e-6)
        std = gaussian.std_B.double()[:, None, None] * ones
        torch.testing.assert_close(std, mean_plus_std - mean, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_sampling_with_known_noise_equals_diffusers(ddim_config, eta):
    config = ddim_config()
    scheduler = in_float64(DDIMScheduler.from_config(config))
    scheduler.set_timesteps(50)
    kernel = ddim(read_schedule(config), 50, eta)
    x, prediction, noise = noise64(1, 3)
    for step, timestep in enumerate(scheduler.timesteps.tolist()):
        expected = scheduler.step(prediction, timestep, x, eta=eta, variance_noise=noise).prev_sample
        gaussian = kernel.gaussian(x.float(), prediction.float(), of_step(step))
        torch.testing.assert_close(gaussian.sample(noise.float()).double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize(("steps_offset", "set_alpha_to_one", "spacing"), GRIDS)
def test_ancestral_equals_ddim_with_eta_1(ddim_config, steps_offset, set_alpha_to_one, spacing, prediction_type):
    # REFERENCE 1: the posterior of Ho et al. eq. 7, and Song et al. eq. 12 with sigma^2 = (1-a')/(1-a) (1-a/a').
    config = ddim_config(
        steps_offset=steps_offset,
        set_alpha_to_one=set_alpha_to_one,
        timestep_spacing=spacing,
        prediction_type=prediction_type,
    )
    grid = read_schedule(config).grid(20)
    x, prediction = noise64(2, 2)
    for a, a_next in zip(grid.alpha_bar_T, grid.alpha_bar_next_T, strict=True):
        torch.testing.assert_close(
            ancestral_mean(x, prediction, a, a_next, prediction_type),
            ddim_mean(x, prediction, a, a_next, 1.0, prediction_type),
            rtol=1e-10,
            atol=1e-10,
        )


def test_the_ancestral_kernel_is_that_of_ddim_with_eta_1(ddim_config):
    schedule = read_schedule(ddim_config())
    ours, reference = ancestral(schedule, 20), ddim(schedule, 20)
    assert torch.equal(ours.std_T, reference.std_T)
    x, prediction = noise64(3, 2).float()
    for step in range(20):
        gaussians = [kernel.gaussian(x, prediction, of_step(step)) for kernel in (ours, reference)]
        torch.testing.assert_close(gaussians[0].mean, gaussians[1].mean, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize(("steps_offset", "spacing"), [(0, "leading"), (1, "leading"), (0, "trailing")])
def test_ancestral_equals_ddpm_scheduler(ddim_config, steps_offset, spacing, prediction_type):
    # DDPMScheduler steps to the next timestep of its list, our grid by the constant stride: the same where the spacing
    # is uniform (leading, and trailing with 20 dividing 1000). Its last step always goes to alpha_bar = 1.
    config = ddim_config(
        _class_name="DDPMScheduler",
        steps_offset=steps_offset,
        timestep_spacing=spacing,
        prediction_type=prediction_type,
        variance_type="fixed_small",
    )
    del config["set_alpha_to_one"]
    scheduler = DDPMScheduler.from_config(config)
    scheduler.alphas_cumprod, scheduler.one = scheduler.alphas_cumprod.double(), scheduler.one.double()
    scheduler.set_timesteps(20)
    kernel = ancestral(read_schedule(dict(scheduler.config)), 20)
    x, prediction = noise64(4, 2)
    for step, timestep in enumerate(scheduler.timesteps.tolist()):
        gaussian = kernel.gaussian(x.float(), prediction.float(), of_step(step))
        # Two known noises determine mean and std; diffusers draws them from the generator with the shape of x.
        for seed in (5, 6):
            noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            generator = torch.Generator().manual_seed(seed)
            expected = scheduler.step(prediction, timestep, x, generator=generator).prev_sample
            ours = gaussian.mean.double() + gaussian.std_B.double()[:, None, None] * noise
            torch.testing.assert_close(ours, expected, rtol=1e-6, atol=2e-6)
        if timestep > 0:
            variance = scheduler._get_variance(timestep)  # clamped from below at 1e-20 by diffusers
            assert math.isclose(float(gaussian.std_B[0]) ** 2, float(variance), rel_tol=1e-6, abs_tol=2e-20)


SD14_SCHEDULER = {  # scheduler/scheduler_config.json of CompVis/stable-diffusion-v1-4
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}


def sd14_sigma(timestep: int, stride: int = 20) -> float:
    """Sigma from the definition in numpy: beta_t linear in its root, alpha_bar_t = prod(1 - beta)."""
    alpha_bar = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    a, a_next = alpha_bar[timestep], alpha_bar[max(timestep - stride, 0)]
    return float(np.sqrt((1 - a_next) / (1 - a) * (1 - a / a_next)))


@pytest.mark.parametrize(("timestep", "sigma"), [(1, 0.0206), (21, 0.0395), (981, 0.4545)])
def test_stable_diffusion_sigmas(timestep, sigma):
    # REFERENCE 3 (measured, four digits), and the definition computed here in float64.
    kernel = ddim(read_schedule(SD14_SCHEDULER), 50)
    step = kernel.time_T.tolist().index(timestep)
    assert round(float(kernel.std_T[step]), 4) == sigma
    # diffusers' cumulative products are float32: 1 - a/a' of 1e-3 is good to 1e-5
    assert math.isclose(float(kernel.std_T[step]), sd14_sigma(timestep), rel_tol=1e-5)


def test_pndm_pipeline_config_is_read_whole():
    # The config object of a loaded PNDM scheduler, which also carries diffusers' private keys.
    schedule = read_schedule(PNDMScheduler.from_config(SD14_SCHEDULER).config)
    kernel = ancestral(schedule, 50)
    assert schedule.prediction_type == "epsilon"
    assert kernel.time_T.tolist() == list(range(981, 0, -20))
    assert len(kernel.stochastic_L) == 50
    alpha_bar_0 = 1 - 0.00085  # alpha_bar of timestep 0 is 1 - beta_0
    assert math.isclose(float(schedule.grid(50).alpha_bar_next_T[-1]), alpha_bar_0, rel_tol=1e-6)


@pytest.mark.parametrize(
    ("steps_offset", "set_alpha_to_one", "spacing", "left_out"),
    [
        # The last step goes below timestep 0 in all of these: to alpha_bar 1 (std 0) or to alpha_bar_0. In the second
        # case it is deterministic too when it starts from timestep 0 itself (a = a').
        (1, True, "leading", 1),
        (0, True, "leading", 1),
        (1, False, "leading", 0),
        (0, False, "leading", 1),
        (0, True, "linspace", 1),
        (0, False, "linspace", 1),
        # trailing, stride 100: 99 - 100 = -1
        (0, True, "trailing", 1),
        (0, False, "trailing", 0),
    ],
)
def test_deterministic_last_step_is_left_out(ddim_config, steps_offset, set_alpha_to_one, spacing, left_out):
    config = ddim_config(steps_offset=steps_offset, set_alpha_to_one=set_alpha_to_one, timestep_spacing=spacing)
    kernel = ddim(read_schedule(config), 10)
    assert len(kernel) == 10
    assert len(kernel.stochastic_L) == 10 - left_out
    assert (kernel.std_T[: 10 - left_out] > 0).all()
    assert (kernel.std_T[10 - left_out :] == 0).all()


def test_clipping_and_thresholding_are_off(ddim_config):
    # REFERENCE 8: they would change the density, so a config that asks for them gives the same step as one without.
    x, prediction = 10 * noise64(7, 2).float()
    kernels = [
        ddim(read_schedule(ddim_config(**changes)), 10)
        for changes in ({}, {"clip_sample": True}, {"thresholding": True})
    ]
    means = [kernel.gaussian(x, prediction, of_step(5)).mean for kernel in kernels]
    assert torch.equal(means[0], means[1])
    assert torch.equal(means[0], means[2])


@pytest.mark.parametrize("eta", [0, 0.0, -0.5, 1.1, math.nan])
def test_eta_without_likelihood_is_refused(ddim_config, eta):
    with pytest.raises(ConfigError, match=r"sampler\.eta: .* is not above 0 and at most 1"):
        ddim(read_schedule(ddim_config()), 10, eta)


def test_a_run_of_one_deterministic_step_is_refused(ddim_config):
    with pytest.raises(ConfigError, match="deterministic"):
        ddim(read_schedule(ddim_config(set_alpha_to_one=True)), 1)


@pytest.mark.parametrize("prediction_type", ["flow_prediction", "", None, "eps"])
def test_unknown_prediction_type_is_refused(ddim_config, prediction_type):
    with pytest.raises(ModelError, match="prediction_type"):
        read_schedule(ddim_config(prediction_type=prediction_type))


def test_flow_matching_scheduler_is_refused():
    from diffusers import FlowMatchEulerDiscreteScheduler

    with pytest.raises(ModelError, match="beta schedule"):
        read_schedule(FlowMatchEulerDiscreteScheduler().config)


@pytest.mark.parametrize("steps", [-1, 0, 1001])
def test_steps_out_of_range_are_refused(ddim_config, steps):
    with pytest.raises(ModelError, match=r"sampler\.steps"):
        read_schedule(ddim_config()).grid(steps)


def test_grid_past_the_last_training_timestep_is_refused(ddim_config):
    # leading, offset 1, 1000 steps: the first timestep would be 999 + 1 = 1000, and the model knows 0..999
    with pytest.raises(ModelError, match="1000"):
        read_schedule(ddim_config(steps_offset=1)).grid(1000)
    assert read_schedule(ddim_config(steps_offset=0)).grid(1000).timestep_T[0] == 999


@pytest.mark.parametrize("steps", [61, 103, 201])
def test_trailing_spacing_has_as_many_steps_as_asked(ddim_config, steps):
    grid = read_schedule(ddim_config(timestep_spacing="trailing")).grid(steps)
    assert len(grid.timestep_T) == steps
    assert int(grid.timestep_T.min()) >= 0


def test_zero_terminal_snr_with_epsilon_is_refused(ddim_config):
    # alpha_bar = 0 at the first step: x0_hat = (x - eps) / 0
    config = ddim_config(timestep_spacing="trailing", rescale_betas_zero_snr=True)
    with pytest.raises(ModelError, match="zero terminal SNR"):
        ddim(read_schedule(config), 10)


@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample"])
def test_zero_terminal_snr_is_exact_for_other_predictions(ddim_config, prediction_type):
    # a = 0: x = eps, so x0_hat = -v or the prediction itself, and sigma^2 = eta^2 (1 - a').
    # mean = sqrt(a') x0_hat + sqrt(1 - a' - sigma^2) x; with eta 1 the last term vanishes.
    config = ddim_config(timestep_spacing="trailing", rescale_betas_zero_snr=True, prediction_type=prediction_type)
    for eta in (0.5, 1.0):
        schedule = read_schedule(config)
        kernel, a_next = ddim(schedule, 10, eta), float(schedule.grid(10).alpha_bar_next_T[0])
        x, prediction = noise64(8, 2)
        x0_hat = -prediction if prediction_type == "v_prediction" else prediction
        expected = a_next**0.5 * x0_hat + ((1 - eta**2) * (1 - a_next)) ** 0.5 * x
        gaussian = kernel.gaussian(x.float(), prediction.float(), of_step(0))
        torch.testing.assert_close(gaussian.mean.double(), expected, rtol=1e-6, atol=1e-6)
        assert math.isclose(float(gaussian.std_B[0]), eta * (1 - a_next) ** 0.5, rel_tol=1e-6)


@pytest.mark.parametrize("a", [0.0047, 0.3, 0.9])
@pytest.mark.parametrize("ratio", [1.01, 1.1])
def test_posterior_std_is_that_of_bayes(a, ratio):
    # q(x_s | x_t, x_0) for s before t: precision = 1/(1-a') + alpha/(1-alpha), from the product of N(x_s; ., 1-a') and
    # N(x_t; sqrt(alpha) x_s, 1-alpha), where alpha = a/a'.
    a_next = a * ratio
    alpha = a / a_next
    variance = 1 / (1 / (1 - a_next) + alpha / (1 - alpha))
    std = posterior_std(torch.tensor(a, dtype=torch.float64), torch.tensor(a_next, dtype=torch.float64))
    assert math.isclose(float(std) ** 2, variance, rel_tol=1e-10)


@pytest.mark.parametrize("set_alpha_to_one", [True, False])
@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_rollout_equals_the_loop_of_diffusers(ddim_config, conv_policy, set_alpha_to_one, eta, prediction_type):
    config = ddim_config(set_alpha_to_one=set_alpha_to_one, prediction_type=prediction_type)
    policy = conv_policy(config, steps=8, eta=eta)
    conditioning = policy.encode([Prompt("a"), Prompt("bird"), Prompt("elephant")])
    seeds = [11, 12, 13]
    trajectory = rollout(policy, conditioning, seeds, batch_size=3)

    scheduler = DDIMScheduler.from_config(config)
    scheduler.set_timesteps(8)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    x = randn_tensor((3, *policy.sample_shape), generator=generators) * scheduler.init_noise_sigma
    states = [x]
    for timestep in scheduler.timesteps:
        model_input = scheduler.scale_model_input(x, timestep)
        with torch.no_grad():
            prediction = policy.network(model_input, timestep.expand(3), conditioning)
        x = scheduler.step(prediction, timestep, x, eta=eta, generator=generators).prev_sample
        states.append(x)
    expected = torch.stack(states, 1)
    # Both sides in float32 (diffusers draws the noise in the dtype of the latents).
    torch.testing.assert_close(trajectory.states, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert trajectory.log_prob_BL.shape == (3, 7 if set_alpha_to_one else 8)
