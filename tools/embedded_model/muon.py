"""Muon (Jordan et al. 2024): steps along the momentum made orthogonal, for matrices and convolutions."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

MOMENTUM = 0.95


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest (semi-)orthogonal matrix to each of (N, rows, columns), roughly: five Newton-Schulz steps."""
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """For parameters of two or more axes; `lr` is the size of a step in each direction of a square matrix."""

    def __init__(self, parameters: Iterable[nn.Parameter], weight_decay: float) -> None:
        super().__init__(parameters, {"lr": 0.0, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            same_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    same_shape.setdefault(parameter.flatten(1).shape, []).append(parameter)
            for (rows, columns), parameters in same_shape.items():
                directions = orthogonal(torch.stack([self._direction(p) for p in parameters]))
                size = group["lr"] * max(1.0, rows / columns) ** 0.5
                for parameter, direction in zip(parameters, directions, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.sub_(direction.view(parameter.shape), alpha=size)

    def _direction(self, parameter: nn.Parameter) -> Tensor:
        """Nesterov's momentum as a matrix (rows, columns)."""
        assert parameter.grad is not None
        momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
        momentum.lerp_(parameter.grad, 1 - MOMENTUM)
        direction: Tensor = parameter.grad.lerp(momentum, MOMENTUM).flatten(1)
        return direction
