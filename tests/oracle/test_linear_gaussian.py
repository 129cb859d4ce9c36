"""Sampling, log-probability, KL and both policy-gradient estimators against the closed forms of `linear_gaussian`.

Monte-Carlo estimates are compared within 4 of their own standard errors; seeds are fixed, so each test always
gives the same numbers.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from linear_gaussian import (
    START,
    Chain,
    LinearGaussianPolicy,
    Parameters,
    Reward,
    expected_reward,
    kernel,
    leaf,
    policy_gradient,
    surrogate,
)
from torch import Tensor

from ddpo.core.advantages import leave_one_out_advantages
from ddpo.core.conditioning import Conditioning
from ddpo.core.kernel import ancestral, ddim
from ddpo.core.objectives import clipped_surrogate, importance_ratio, score_function
from ddpo.core.rollout import replay, rollout
from ddpo.core.trajectory import Pairs, Trajectory
from ddpo.policies.schedule import read_schedule

SAMPLES, GROUPS = 20_000, 50
UNCLIPPED = 1e9


@dataclass(frozen=True)
class Case:
    """A chain, the package's policy on it, and trajectories drawn by it."""

    chain: Chain
    policy: LinearGaussianPolicy
    trajectory: Trajectory

    @property
    def L(self) -> int:
        return self.chain.length


def draw(steps: int, eta: float, *, set_alpha_to_one: bool, name: str = "ddim") -> Case:
    chain = Chain.create(steps, eta, set_alpha_to_one=set_alpha_to_one)
    ours = kernel(steps, eta, set_alpha_to_one=set_alpha_to_one, name=name)
    policy = LinearGaussianPolicy(ours, START)
    return Case(chain, policy, rollout(policy, Conditioning.none(SAMPLES), range(SAMPLES), batch_size=SAMPLES))


CASES = {
    "ddim eta 1": {"steps": 5, "eta": 1.0, "set_alpha_to_one": False},
    "ddim eta 0.5": {"steps": 4, "eta": 0.5, "set_alpha_to_one": False},
    "deterministic end": {"steps": 5, "eta": 1.0, "set_alpha_to_one": True},
    "ancestral": {"steps": 4, "eta": 1.0, "set_alpha_to_one": False, "name": "ancestral"},
}


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES)
def case(request):
    return draw(**request.param)


@pytest.fixture(scope="module")
def one_step():
    """A chain of a single step, where eq. 4 has no other steps to leave out."""
    return draw(1, 1.0, set_alpha_to_one=False)


REWARDS = {
    "linear": Reward(torch.tensor([1.0, -0.5]).double(), torch.zeros(2).double(), 0.0),
    "quadratic": Reward(torch.zeros(2).double(), torch.tensor([1.5, -1.0]).double(), 0.3),
}
every_reward = pytest.mark.parametrize("reward", REWARDS.values(), ids=REWARDS)


def batches(case: Case, advantage_B: Tensor) -> list[Pairs]:
    """All (sample, step) pairs, in `GROUPS` groups of whole trajectories."""
    sample_GN = torch.arange(SAMPLES).repeat_interleave(case.L).reshape(GROUPS, -1)
    step_GN = torch.arange(case.L).repeat(SAMPLES).reshape(GROUPS, -1)
    return [Pairs(case.trajectory, *pairs, advantage_B.float()) for pairs in zip(sample_GN, step_GN, strict=True)]


def score_function_gradients(case: Case, advantage_B: Tensor) -> Tensor:
    """`(GROUPS, 2D)` estimates of the gradient of E[r]: minus DDPO-SF's, times L for the mean over steps."""
    rows = []
    for batch in batches(case, advantage_B):
        loss, _ = score_function(replay(case.policy, batch).log_prob_N, batch.advantage_N)
        rows.append(-case.L * case.policy.gradient(loss))
    return torch.stack(rows)


def importance_gradients(case: Case, advantage_B: Tensor, new: Parameters) -> tuple[Tensor, Tensor]:
    """`(GROUPS, 2D)` gradients and `(GROUPS,)` values of the surrogate at `new`, not clipped, summed over steps."""
    policy = LinearGaussianPolicy(case.policy.kernel, new)
    rows, values = [], []
    for batch in batches(case, advantage_B):
        replayed = replay(policy, batch)
        loss, _ = clipped_surrogate(replayed.log_prob_N, batch.log_prob_N, batch.advantage_N, clip_range=UNCLIPPED)
        rows.append(-case.L * policy.gradient(loss))
        values.append(-case.L * loss.detach().double())
    return torch.stack(rows), torch.stack(values)


def assert_agrees(estimates: Tensor, exact: Tensor, *, within: float = 0.1) -> None:
    """The mean over groups is within 4 standard errors of `exact`, and those are below `within` of its norm."""
    error = estimates.std(0) / math.sqrt(GROUPS)
    assert error.norm() < within * exact.norm(), f"standard error {error} says little about {exact}"
    assert ((estimates.mean(0) - exact).abs() <= 4 * error).all(), f"{estimates.mean(0)} +- {error}, exact {exact}"


# --- The chain -------------------------------------------------------------------------------------------------------


def test_the_kernel_has_the_coefficients_of_the_chain(case):
    # The Gaussian at (x, eps) = (1, 0) and (0, 1).
    one, zero = torch.ones(1, 1), torch.zeros(1, 1)
    for step in range(len(case.policy.kernel)):
        gaussians = [case.policy.kernel.gaussian(*pair, torch.tensor([step])) for pair in ((one, zero), (zero, one))]
        assert math.isclose(gaussians[0].mean.item(), case.chain.of_x_T[step], rel_tol=1e-6)
        assert math.isclose(gaussians[1].mean.item(), case.chain.of_eps_T[step], rel_tol=1e-5)
        assert math.isclose(gaussians[0].std_B.item(), case.chain.sigma_T[step], rel_tol=1e-5)
    assert len(case.policy.kernel.stochastic_L) == case.L


def test_marginals_of_every_state(case):
    means, variances = case.chain.moments([START] * len(case.chain.sigma_T))
    assert case.trajectory.states.shape == (SAMPLES, len(means), 2)
    for index, (mean, variance) in enumerate(zip(means, variances, strict=True)):
        x = case.trajectory.states[:, index].double()
        # Standard errors of a Gaussian's sample mean and variance.
        assert ((x.mean(0) - mean).abs() <= 4 * (variance / SAMPLES).sqrt()).all()
        assert ((x.var(0) - variance).abs() <= 4 * variance * math.sqrt(2 / SAMPLES)).all()
        # Dimensions are independent: correlation 0, standard error 1/sqrt(n).
        assert abs(torch.corrcoef(x.T)[0, 1].item()) <= 4 / math.sqrt(SAMPLES)


def test_covariance_of_consecutive_states(case):
    # Cov(x', x) = gain Var(x): the regression slope of x' on x is the gain, its standard error sigma / sqrt(n Var(x)).
    _, variances = case.chain.moments([START] * len(case.chain.sigma_T))
    x = case.trajectory.states.double()
    for step, (of_x, of_eps, sigma) in enumerate(
        zip(case.chain.of_x_T, case.chain.of_eps_T, case.chain.sigma_T, strict=True)
    ):
        centred, following = (x[:, i] - x[:, i].mean(0) for i in (step, step + 1))
        slope = (centred * following).sum(0) / centred.square().sum(0)
        error = sigma / (SAMPLES * variances[step]).sqrt()
        assert ((slope - (of_x + of_eps * START.weight)).abs() <= 4 * error + 1e-5).all()


@every_reward
def test_expected_reward(case, reward):
    rewards = reward(case.trajectory.final)
    expected = expected_reward(case.chain, reward, [START] * len(case.chain.sigma_T))
    assert abs(rewards.mean() - expected) <= 4 * rewards.std() / math.sqrt(SAMPLES)


@pytest.mark.parametrize(("name", "eta"), [("ddim", 0.2), ("ddim", 0.7), ("ddim", 1.0), ("ancestral", 1.0)])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("set_alpha_to_one", [True, False])
def test_marginals_of_a_point_are_exact_for_any_eta_and_number_of_steps(
    ddim_config, name, eta, prediction_type, set_alpha_to_one
):
    # Song et al. 2021, lemma 1: with the exact prediction for data at the point mu, every step takes N(sqrt(a) mu, 1-a)
    # to N(sqrt(a') mu, 1-a'). The exact prediction at x = sqrt(a) mu + sqrt(1-a) u is eps = u, x0 = mu,
    # v = sqrt(a) u - sqrt(1-a) mu. The step is linear in u with some slope k, so k^2 + sigma^2 = 1 - a'.
    config = ddim_config(prediction_type=prediction_type, set_alpha_to_one=set_alpha_to_one)
    schedule = read_schedule(config)
    grid, ours = schedule.grid(7), ddim(schedule, 7, eta) if name == "ddim" else ancestral(schedule, 7)
    mu = 1.7
    for step, (a, a_next) in enumerate(zip(grid.alpha_bar_T, grid.alpha_bar_next_T, strict=True)):
        means = []
        for u in (0.0, 1.0):
            x = a.sqrt() * mu + (1 - a).sqrt() * u
            v = a.sqrt() * u - (1 - a).sqrt() * mu
            prediction = {"epsilon": u, "v_prediction": float(v), "sample": mu}[prediction_type]
            gaussian = ours.gaussian(x.float().reshape(1, 1), torch.tensor([[prediction]]), torch.tensor([step]))
            means.append(gaussian.mean.item())
        k, sigma = means[1] - means[0], gaussian.std_B.item()
        assert math.isclose(means[0], a_next.sqrt() * mu, rel_tol=2e-6)
        assert math.isclose(k**2 + sigma**2, 1 - a_next, rel_tol=2e-5, abs_tol=1e-6)


# --- Log-probability and KL ------------------------------------------------------------------------------------------


def test_log_prob_of_every_step(case):
    # log N(x'; gain x + shift, sigma^2) over two dimensions.
    x = case.trajectory.states.double()
    for step in range(case.L):
        of_x, of_eps, sigma = case.chain.of_x_T[step], case.chain.of_eps_T[step], case.chain.sigma_T[step]
        mean = of_x * x[:, step] + of_eps * (START.weight * x[:, step] + START.bias)
        z = (x[:, step + 1] - mean) / sigma
        expected = -0.5 * z.square().sum(1) - 2 * sigma.log() - math.log(2 * math.pi)
        torch.testing.assert_close(case.trajectory.log_prob_BL[:, step].double(), expected, rtol=1e-4, atol=1e-3)


def test_mean_log_prob_is_minus_the_entropy(case):
    # E[log p] = -D (1/2 log(2 pi e) + log sigma); log p has variance D/2.
    entropy_L = 2 * (0.5 * math.log(2 * math.pi * math.e) + case.chain.sigma_T[: case.L].log())
    error = math.sqrt(2 / 2 / SAMPLES)
    assert ((case.trajectory.log_prob_BL.double().mean(0) + entropy_L).abs() <= 4 * error).all()


@pytest.mark.parametrize(("change", "rtol"), [(1e-3, 1e-2), (0.1, 1e-4)])
def test_kl_of_every_step(case, change, rtol):
    # Means differ by of_eps (dw x + db): KL = |that|^2 / (2 sigma^2), and by the moments of x its expectation is
    # of_eps^2 / (2 sigma^2) sum(dw^2 (variance + mean^2) + 2 dw db mean + db^2).
    new = START.moved(change)
    dw, db = new.weight - START.weight, new.bias - START.bias
    means, variances = case.chain.moments([START] * len(case.chain.sigma_T))
    policy = LinearGaussianPolicy(case.policy.kernel, new)
    every = torch.arange(SAMPLES)
    for step in range(case.L):
        batch = Pairs(case.trajectory, every, torch.full_like(every, step), torch.zeros(SAMPLES))
        kl = replay(policy, batch).kl_N.double()
        scale = case.chain.of_eps_T[step].square() / (2 * case.chain.sigma_T[step].square())
        x = case.trajectory.states[:, step].double()
        torch.testing.assert_close(kl, scale * (dw * x + db).square().sum(1), rtol=rtol, atol=1e-4 * change)
        mean, variance = means[step], variances[step]
        expected = scale * (dw**2 * (variance + mean**2) + 2 * dw * db * mean + db**2).sum()
        assert abs(kl.mean() - expected) <= 4 * kl.std() / math.sqrt(SAMPLES)


def test_replay_gives_the_stored_log_probs_back(case):
    for batch in batches(case, torch.zeros(SAMPLES)):
        replayed = replay(case.policy, batch)
        assert (importance_ratio(replayed.log_prob_N, batch.log_prob_N) - 1).abs().max() <= 1e-5
        assert replayed.kl_N.max() <= 1e-9


def test_importance_weights_have_mean_1(case):
    # E_old[rho] = 1 at every step, whatever the new parameters.
    policy = LinearGaussianPolicy(case.policy.kernel, START.moved(0.02))
    every = torch.arange(SAMPLES)
    for step in range(case.L):
        batch = Pairs(case.trajectory, every, torch.full_like(every, step), torch.zeros(SAMPLES))
        ratio = importance_ratio(replay(policy, batch).log_prob_N, batch.log_prob_N).detach().double()
        assert ratio.std() > 1e-3
        assert abs(ratio.mean() - 1) <= 4 * ratio.std() / math.sqrt(SAMPLES)


# --- The policy gradient ---------------------------------------------------------------------------------------------


@every_reward
def test_score_function_gradient_is_exact(case, reward):
    exact = policy_gradient(case.chain, reward, START)
    assert_agrees(score_function_gradients(case, reward(case.trajectory.final)), exact)


@every_reward
def test_a_deterministic_last_step_belongs_to_the_reward(reward):
    # The score function cannot see through a deterministic step: the estimate is not the gradient of E[r(x_0)] with
    # theta moving there too. Both closed forms differ by far more than the error of the estimate.
    case = draw(**CASES["deterministic end"])
    estimates = score_function_gradients(case, reward(case.trajectory.final))
    moving = leaf(START)
    total = expected_reward(case.chain, reward, [moving] * 5)
    through = torch.cat(torch.autograd.grad(total, list(moving)))
    error = estimates.std(0) / math.sqrt(GROUPS)
    assert ((estimates.mean(0) - through).abs() / error).max() > 4
    assert_agrees(estimates, policy_gradient(case.chain, reward, START))


@every_reward
def test_a_baseline_keeps_the_gradient_and_lowers_its_error(case, reward):
    exact = policy_gradient(case.chain, reward, START)
    rewards = reward(case.trajectory.final) + 3
    plain = score_function_gradients(case, rewards)
    # A constant known beforehand, and the mean of the other samples of the same prompt, are both unbiased.
    baseline = expected_reward(case.chain, reward, [START] * len(case.chain.sigma_T)) + 3
    constant = score_function_gradients(case, rewards - baseline)
    left_out = leave_one_out_advantages([i % 500 for i in range(SAMPLES)], rewards.numpy())
    others = score_function_gradients(case, torch.from_numpy(left_out))
    for estimates in (constant, others):
        assert_agrees(estimates, exact)
        assert estimates.std(0).norm() < plain.std(0).norm()
    assert_agrees(plain, exact, within=0.3)


@every_reward
@pytest.mark.parametrize("dimensions", [1, 2])
@pytest.mark.parametrize("clip_range", [1e-4, 0.2])
def test_first_update_of_importance_sampling_is_that_of_the_score_function(case, reward, dimensions, clip_range):
    # REFERENCE 17.
    advantages = reward(case.trajectory.final)
    for batch in batches(case, (advantages - advantages.mean()) / advantages.std())[:3]:
        by_score, _ = score_function(replay(case.policy, batch).log_prob_N, batch.advantage_N, dimensions=dimensions)
        by_ratio, metrics = clipped_surrogate(
            replay(case.policy, batch).log_prob_N,
            batch.log_prob_N,
            batch.advantage_N,
            clip_range=clip_range,
            dimensions=dimensions,
        )
        assert metrics["clip_fraction"].max() == 0
        expected = case.policy.gradient(by_score)
        torch.testing.assert_close(
            case.policy.gradient(by_ratio), expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max())
        )


@every_reward
def test_importance_sampling_is_exact_for_one_step(one_step, reward):
    # Nothing is left out: the value is E[r] and the gradient the policy gradient, both at the new parameters.
    new = START.moved(0.1)
    gradients, values = importance_gradients(one_step, reward(one_step.trajectory.final), new)
    assert_agrees(gradients, policy_gradient(one_step.chain, reward, new))
    assert_agrees(values, expected_reward(one_step.chain, reward, [new]))


@every_reward
def test_importance_sampling_over_many_steps_is_eq_4(case, reward):
    # Far enough from the old parameters that the policy gradient itself is several standard errors away.
    new = START.moved(0.06)
    gradients, values = importance_gradients(case, reward(case.trajectory.final), new)
    value, gradient = surrogate(case.chain, reward, START, new)
    assert_agrees(gradients, gradient)
    assert_agrees(values, value, within=0.5)


@every_reward
def test_importance_sampling_near_the_old_policy_is_the_policy_gradient(case, reward):
    new = START.moved(1e-3)
    gradients, _ = importance_gradients(case, reward(case.trajectory.final), new)
    assert_agrees(gradients, policy_gradient(case.chain, reward, new))


@every_reward
def test_closed_form_of_eq_4_meets_the_policy_gradient_at_the_old_parameters(case, reward):
    # No sampling: two closed forms, one summed over steps, that must agree where all steps have the same theta.
    _, gradient = surrogate(case.chain, reward, START, START)
    torch.testing.assert_close(gradient, policy_gradient(case.chain, reward, START), rtol=1e-10, atol=1e-12)


@every_reward
def test_gradient_steps_raise_the_exact_expected_reward(reward):
    # The whole loop on the exact oracle: rollout, reward, advantage, DDPO-SF, plain gradient ascent.
    chain, ours = Chain.create(3, 1.0, set_alpha_to_one=False), kernel(3, 1.0, set_alpha_to_one=False)
    policy = LinearGaussianPolicy(ours, START)

    def value() -> float:
        theta = Parameters(policy.weight.detach().double(), policy.bias.detach().double())
        return float(expected_reward(chain, reward, [theta] * 3))

    values = [value()]
    sample_N, step_N = torch.arange(500).repeat_interleave(3), torch.arange(3).repeat(500)
    for iteration in range(5):
        trajectory = rollout(
            policy, Conditioning.none(500), range(1000 * iteration, 1000 * iteration + 500), batch_size=500
        )
        advantages = leave_one_out_advantages(["a"] * 500, reward(trajectory.final).numpy())
        batch = Pairs(trajectory, sample_N, step_N, torch.from_numpy(advantages).float())
        gradient = policy.gradient(score_function(replay(policy, batch).log_prob_N, batch.advantage_N)[0])
        step = 0.05 * gradient / gradient.norm()
        with torch.no_grad():
            policy.weight -= step[:2].float()
            policy.bias -= step[2:].float()
        values.append(value())
    assert all(after > before for before, after in itertools.pairwise(values))
