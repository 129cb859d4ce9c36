"""A denoiser whose every marginal, log-probability, KL and policy gradient is known in closed form.

The network predicts `eps(x) = weight * x + bias`, per dimension, at every timestep; parameters theta = (weight, bias),
each `(D,)`. A denoising step is linear in x and eps, so with its coefficients `of_x`, `of_eps` and its sigma

    x' = of_x x + of_eps (weight x + bias) + sigma z = gain x + shift + sigma z,
    gain = of_x + of_eps weight,   shift = of_eps bias,

and x stays Gaussian with independent dimensions. From x_T ~ N(0, 1), mean 0 and variance 1:

    mean' = gain mean + shift,   variance' = gain^2 variance + sigma^2,   Cov(x', x) = gain variance.

Expected rewards of x_0, and by autograd through this recursion their exact gradients, follow:

    r = c . x_0            E[r] = c . mean_0
    r = -|x_0 - g|^2       E[r] = -sum(variance_0 + (mean_0 - g)^2)

The coefficients are computed here from the betas, in Ho et al.'s form of the ancestral step (2020, algorithm 2; alpha =
a/a', beta = 1 - alpha) for eta 1 and Song et al.'s (2021, eq. 12) for others; nothing is taken from `ddpo.core.kernel`:

    eta 1:  of_x = 1/sqrt(alpha),   of_eps = -beta / (sqrt(alpha) sqrt(1 - a)),   sigma^2 = (1-a')/(1-a) beta
    else:   of_x = sqrt(a'/a),      of_eps = sqrt(1 - a' - sigma^2) - sqrt(a' (1-a)/a),   sigma = eta times the above
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ddpo.core.conditioning import Conditioning
from ddpo.core.kernel import Kernel, ancestral, ddim
from ddpo.policies import NetworkPolicy
from ddpo.policies.schedule import read_schedule

CONFIG = {"num_train_timesteps": 20, "beta_schedule": "linear", "beta_start": 0.1, "beta_end": 0.2, "steps_offset": 1}
"""A coarse schedule (alpha_bar 0.9 to 0.04): sigmas of 0.2 to 0.7 keep the variance of the estimators small."""


class Parameters(NamedTuple):
    """theta in float64, for the closed forms."""

    weight: Tensor
    bias: Tensor

    def moved(self, change: float) -> Parameters:
        """Another theta, each component changed by up to `change`, alternating in sign."""
        sign = torch.tensor([1.0, -1.0] * len(self.weight), dtype=torch.float64)[: len(self.weight)]
        return Parameters(self.weight - change * sign, self.bias + 0.7 * change * sign)


START = Parameters(torch.tensor([0.6, 0.8], dtype=torch.float64), torch.tensor([-0.4, 0.2], dtype=torch.float64))


class Line(nn.Module):
    """weight * x + bias, float32 like any other network."""

    def __init__(self, theta: Parameters) -> None:
        super().__init__()
        self.weight = nn.Parameter(theta.weight.float())
        self.bias = nn.Parameter(theta.bias.float())

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x + self.bias


class LinearGaussianPolicy(NetworkPolicy):
    """The `Policy` of the module's description."""

    def __init__(self, kernel: Kernel, theta: Parameters) -> None:
        line = Line(theta)
        super().__init__(line, kernel, read_schedule(CONFIG), tuple(theta.weight.shape))
        self.weight, self.bias = line.weight, line.bias

    def predict(self, x: Tensor, time_B: Tensor, conditioning: Conditioning, *, guided: bool) -> Tensor:
        prediction: Tensor = self.network(x)
        return prediction

    def gradient(self, loss: Tensor) -> Tensor:
        """The gradient of `loss` with respect to (weight, bias), `(2D,)` float64."""
        return torch.cat(torch.autograd.grad(loss, [self.weight, self.bias])).double()


@dataclass(frozen=True)
class Chain:
    """The denoising chain in closed form: the coefficients of its T steps, each `(T,)` float64."""

    of_x_T: Tensor
    of_eps_T: Tensor
    sigma_T: Tensor

    @classmethod
    def create(cls, steps: int, eta: float, *, set_alpha_to_one: bool) -> Chain:
        beta = torch.linspace(0.1, 0.2, 20, dtype=torch.float64)
        alpha_bar = torch.cumprod(1 - beta, 0)
        stride = 20 // steps
        timesteps = [1 + stride * i for i in reversed(range(steps))]
        final = torch.tensor(1.0, dtype=torch.float64) if set_alpha_to_one else alpha_bar[0]
        a = alpha_bar[timesteps]
        a_next = torch.stack([alpha_bar[t - stride] if t >= stride else final for t in timesteps])
        alpha, sigma = a / a_next, eta * ((1 - a_next) / (1 - a) * (1 - a / a_next)).sqrt()
        if eta == 1:
            return cls(1 / alpha.sqrt(), -(1 - alpha) / (alpha * (1 - a)).sqrt(), sigma)
        of_eps = (1 - a_next - sigma.square()).sqrt() - (a_next * (1 - a) / a).sqrt()
        return cls((a_next / a).sqrt(), of_eps, sigma)

    @property
    def length(self) -> int:
        """L: the steps with a likelihood."""
        return int((self.sigma_T > 0).sum())

    def moments(self, thetas: Sequence[Parameters]) -> tuple[list[Tensor], list[Tensor]]:
        """Mean and variance `(D,)` of x_T ... x_0, step i run with `thetas[i]`."""
        mean, variance = torch.zeros_like(thetas[0].weight), torch.ones_like(thetas[0].weight)
        means, variances = [mean], [variance]
        for theta, of_x, of_eps, sigma in zip(thetas, self.of_x_T, self.of_eps_T, self.sigma_T, strict=True):
            gain = of_x + of_eps * theta.weight
            mean, variance = gain * mean + of_eps * theta.bias, gain.square() * variance + sigma.square()
            means.append(mean)
            variances.append(variance)
        return means, variances


@dataclass(frozen=True)
class Reward:
    """`c . x_0 - q |x_0 - g|^2 + offset`, of a sample and in expectation."""

    c: Tensor
    g: Tensor
    q: float
    offset: float = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        x = x.double()
        return x @ self.c - self.q * (x - self.g).square().sum(1) + self.offset

    def expected(self, mean: Tensor, variance: Tensor) -> Tensor:
        return self.c @ mean - self.q * (variance + (mean - self.g).square()).sum() + self.offset


def expected_reward(chain: Chain, reward: Reward, thetas: Sequence[Parameters]) -> Tensor:
    """E[r(x_0)] when step i runs with `thetas[i]`."""
    means, variances = chain.moments(thetas)
    return reward.expected(means[-1], variances[-1])


def leaf(theta: Parameters) -> Parameters:
    return Parameters(*(value.clone().requires_grad_() for value in theta))


def policy_gradient(chain: Chain, reward: Reward, theta: Parameters) -> Tensor:
    """The gradient of E[r(x_0)] in theta `(2D,)`, through the steps that have a likelihood.

    A deterministic last step belongs to the reward (paper C.1: the MDP ends with the last action), as the decoder
    does: the score-function gradient cannot see through it, so its theta is held fixed here.
    """
    moving = leaf(theta)
    thetas = [moving if i < chain.length else theta for i in range(len(chain.sigma_T))]
    return torch.cat(torch.autograd.grad(expected_reward(chain, reward, thetas), list(moving)))


def surrogate(chain: Chain, reward: Reward, old: Parameters, new: Parameters) -> tuple[Tensor, Tensor]:
    """What the importance-sampling estimator of eq. 4 estimates at `new` with samples of `old`: value and gradient.

    Its weight is the ratio of one step, so the t-th term is the expected reward of a run that takes step t with the new
    parameters and all others with the old: E_old[rho_t r] = E[r | step t new] =: J_t; value sum_t J_t, gradient `(2D,)`
    sum_t dJ_t/d new. At new = old the gradient is the policy gradient; further away it leaves out that
    the other steps have changed too (the reason for the trust region).
    """
    moving = leaf(new)
    T = len(chain.sigma_T)
    total = torch.stack(
        [expected_reward(chain, reward, [moving if i == t else old for i in range(T)]) for t in range(chain.length)]
    ).sum()
    return total.detach(), torch.cat(torch.autograd.grad(total, list(moving)))


def regression_optimum(clean: Tensor, weight_B: Tensor) -> Parameters:
    """The theta that minimises the weighted denoising loss of samples `(B, D)`, in closed form.

    With x_t = sqrt(a) x_0 + sqrt(1 - a) eps, t uniform over the 20 timesteps, and eps(x) = weight x + bias, per
    dimension, least squares gives weight = Cov(x_t, eps) / Var(x_t) and bias = E[eps] - weight E[x_t]. Means are over
    weighted samples, noise and timesteps: E[eps] = 0, Cov(x_t, eps) = E sqrt(1 - a), E[x_t] = E[sqrt(a)] E_w[x_0],
    E[x_t^2] = E[a] E_w[x_0^2] + E[1 - a].
    """
    beta = torch.linspace(0.1, 0.2, 20, dtype=torch.float64)
    a_T = torch.cumprod(1 - beta, 0)
    share_B = (weight_B / weight_B.sum()).double()[:, None]
    mean, square = (share_B * clean.double()).sum(0), (share_B * clean.double().square()).sum(0)
    mean_t = a_T.sqrt().mean() * mean
    weight = (1 - a_T).sqrt().mean() / (a_T.mean() * square + (1 - a_T).mean() - mean_t.square())
    return Parameters(weight, -weight * mean_t)


def kernel(steps: int, eta: float, *, set_alpha_to_one: bool, name: str = "ddim") -> Kernel:
    """The package's kernel for the same chain."""
    schedule = read_schedule(CONFIG | {"set_alpha_to_one": set_alpha_to_one})
    return ddim(schedule, steps, eta) if name == "ddim" else ancestral(schedule, steps)
