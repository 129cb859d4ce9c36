"""What an algorithm makes its updates of: an iteration's samples with their credit, and how many updates to make."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpo.core.randomness import Stream, derive_seed
from ddpo.core.trajectory import Trajectory

Array = NDArray[np.float64]
State = Mapping[str, Any]
"""What an algorithm remembers from iteration to iteration, as plain values that JSON holds; empty at first."""
Advantage = Callable[[Sequence[Hashable], Array, State], tuple[Array, State]]
"""From the prompts and rewards `(S,)` of an iteration to advantages `(S,)`, and the state after."""


@dataclass(frozen=True)
class UpdateSettings:
    """How an iteration's samples are used."""

    number: int
    """Optimizer steps in one inner epoch."""
    inner_epochs: int
    """Passes over the samples."""
    timestep_fraction: float
    """Share of each sample's steps that is trained on."""
    advantage: Advantage
    """How rewards become advantages (F.3)."""


@dataclass(frozen=True)
class Experience:
    """The samples of an iteration that this process drew, and the credit of all of them."""

    trajectory: Trajectory
    """Its B samples; `x_0` alone where the algorithm needs no steps."""
    credit_S: Array
    """`(S,)`: advantage or weight of every sample of the iteration, over all processes; 0 where it was left out."""
    first: int
    """Index of the first of this process's samples among all S."""
    run_seed: int
    iteration: int

    @property
    def credit_B(self) -> Array:
        """`(B,)`: the credit of this process's samples."""
        return self.credit_S[self.first : self.first + len(self.trajectory)]

    @property
    def processes(self) -> int:
        """Number of processes, which draw equally many samples."""
        return len(self.credit_S) // max(1, len(self.trajectory))

    def credit_on(self, device: torch.device, scale: float = 1.0) -> Tensor:
        """Return `credit_B` times a number as a tensor `(B,)` float32 on a device."""
        return torch.as_tensor(self.credit_B * scale, dtype=torch.float32, device=device)

    def generator(self, stream: Stream, *position: int) -> torch.Generator:
        """Return a generator of this iteration's own: the same in a run that is resumed."""
        return torch.Generator().manual_seed(derive_seed(self.run_seed, stream, self.iteration, *position))
