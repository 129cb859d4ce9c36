"""The base model: the policy before training, and how far the present policy has moved away from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ddpo.core.policy import Policy
from ddpo.core.rollout import replay
from ddpo.core.trajectory import Minibatch, Trajectory


class BaseParameters:
    """The values parameters had before training; adapters (LoRA) begin as the identity, so theirs are the base too."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        """Copy the present values of `parameters` to the CPU."""
        self._parameters = list(parameters)
        self._values = _copied(self._parameters)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the parameters their kept values inside the context; afterwards every bit is as before.

        The present values wait on the CPU: a large network needs no more memory on its device.
        """
        present = _copied(self._parameters)
        try:
            self._assign(self._values)
            yield
        finally:
            self._assign(present)

    @torch.no_grad()
    def _assign(self, values: Iterable[Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)


def _copied(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    return [parameter.detach().to("cpu", copy=True) for parameter in parameters]


@torch.no_grad()
def kl_to_base(policy: Policy, base: BaseParameters, trajectory: Trajectory, *, batch_size: int) -> Tensor:
    """Return the divergence of each of the policy's trajectories from the base model, `(B,)` float64, in nats.

    The sum over the steps of `|mean - mean_base|^2 / (2 std^2)`, each step's exact KL divergence at the states the
    trajectory went through. Its mean over trajectories drawn from the policy is an unbiased estimate of
    `KL(p_theta(trajectory) || p_base(trajectory))`, with no noise from the steps themselves. `base` belongs to the
    policy's parameters; `batch_size` is that of the rollout, whose batches are repeated row by row, so that the
    divergence of the base model from itself is exactly 0.
    """
    B, L = trajectory.log_prob_BL.shape
    device = trajectory.states.device
    no_advantage_B = torch.zeros(B, device=device)
    kl_B = torch.zeros(B, dtype=torch.float64)
    with base.in_place():
        for start in range(0, B, batch_size):
            sample_N = torch.arange(start, min(start + batch_size, B), device=device)
            for step in range(L):
                step_N = torch.full_like(sample_N, step)
                batch = Minibatch(trajectory, sample_N, step_N, no_advantage_B, rows=batch_size)
                kl_B[start : start + batch_size] += replay(policy, batch).kl_N.double().cpu()
    return kl_B
