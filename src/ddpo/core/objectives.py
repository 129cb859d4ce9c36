"""The objectives as pure functions `(loss, metrics)`: policy gradients of log-probabilities, and weighted regression.

The metrics are `(N,)` too, one value a pair, so that the trainer can average them over all pairs and per
stretch of the denoising run.

All arguments are `(N,)`, over (sample, step) pairs or noised samples; log-probabilities are in nats, summed over the
dimensions of a sample. `dimensions` divides them: D gives the mean over dimensions, the convention of the
public codes to which the paper's clip range of 1e-4 belongs; 1 gives the sum of the paper's equations. With
the mean, a clip range c lets the true ratio of a step move by about c * D nats: `clip_range = clip_nats / D`
carries a clip over from one sample size to another.

Losses are means over the pairs, so their scale does not depend on the batch or the number of steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

LossMetrics = dict[str, Tensor]


def _check(*tensors: Tensor) -> None:
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        raise ValueError(f"expected (N,) tensors of one length, got {sorted(shapes)}")


def score_function(log_prob_N: Tensor, advantage_N: Tensor, *, dimensions: int = 1) -> tuple[Tensor, LossMetrics]:
    """DDPO-SF: `-E[advantage * log p]`, whose gradient is the estimator of eq. 3. On-policy only."""
    _check(log_prob_N, advantage_N)
    return -(advantage_N * log_prob_N / dimensions).mean(), {}


def importance_ratio(log_prob_N: Tensor, old_log_prob_N: Tensor, *, dimensions: int = 1) -> Tensor:
    """Return `exp((log p - log p_old) / dimensions)`, the importance weight of eq. 4.

    Its logarithm is held within +-60, where float32 neither overflows nor turns an advantage of 0 into NaN.
    """
    _check(log_prob_N, old_log_prob_N)
    return torch.exp(((log_prob_N - old_log_prob_N) / dimensions).clamp(-60, 60))


def clipped_surrogate(
    log_prob_N: Tensor, old_log_prob_N: Tensor, advantage_N: Tensor, *, clip_range: float, dimensions: int = 1
) -> tuple[Tensor, LossMetrics]:
    """DDPO-IS: the importance-sampling estimator (eq. 4) with PPO's clip as its trust region (section C.3).

    `E[max(-A rho, -A clip(rho, 1 - clip_range, 1 + clip_range))]`. `clip_fraction` is 1 for a pair
    whose ratio lies outside the clip range, else 0.
    """
    ratio_N = importance_ratio(log_prob_N, old_log_prob_N, dimensions=dimensions)
    _check(ratio_N, advantage_N)
    clipped_N = ratio_N.clamp(1 - clip_range, 1 + clip_range)
    loss = torch.maximum(-advantage_N * ratio_N, -advantage_N * clipped_N).mean()
    outside_N = (ratio_N.detach() - 1).abs() > clip_range
    return loss, {"clip_fraction": outside_N.float()}


def reward_weighted(error_N: Tensor, weight_N: Tensor) -> tuple[Tensor, LossMetrics]:
    """RWR: the denoising loss weighted by the reward, `E[w(x_0, c) |eps - eps_theta(x_t, t, c)|^2]` (section C.2).

    `error_N` is each noised sample's squared error, averaged over its dimensions; with weights of 1 this is the plain
    denoising loss of eq. 1.
    """
    _check(error_N, weight_N)
    return (weight_N * error_N).mean(), {"denoising_loss": error_N.detach()}
