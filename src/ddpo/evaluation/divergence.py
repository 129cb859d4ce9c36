"""How far the present policy has moved away from the base model, the policy before training."""

from __future__ import annotations

import torch
from torch import Tensor

from ddpo.core.policy import Policy
from ddpo.core.rollout import replay
from ddpo.core.trajectory import Pairs, Trajectory


@torch.no_grad()
def kl_to_base(policy: Policy, trajectory: Trajectory, *, batch_size: int) -> Tensor:
    """Return the divergence of each of the policy's trajectories from the base model, `(B,)` float64, in nats.

    The sum over the steps of `|mean - mean_base|^2 / (2 std^2)`, each step's exact KL divergence at the states the
    trajectory went through. Its mean over trajectories drawn from the policy is an unbiased estimate of
    `KL(p_theta(trajectory) || p_base(trajectory))`, with no noise from the steps themselves. `batch_size` is that of
    the rollout, whose batches are repeated row by row, so that the divergence of the base model from itself is exactly
    0.
    """
    B, L = trajectory.log_prob_BL.shape
    device = trajectory.states.device
    no_advantage_B = torch.zeros(B, device=device)
    kl_B = torch.zeros(B, dtype=torch.float64)
    with policy.base_model():
        for start in range(0, B, batch_size):
            sample_N = torch.arange(start, min(start + batch_size, B), device=device)
            for index in range(L):
                pairs = Pairs(trajectory, sample_N, torch.full_like(sample_N, index), no_advantage_B, rows=batch_size)
                kl_B[start : start + batch_size] += replay(policy, pairs).kl_N.double().cpu()
    return kl_B
