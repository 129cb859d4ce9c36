"""What an algorithm is: a configuration object that gives credit to samples, cuts minibatches, and has a loss.

A new one is one file: a class that takes over `PolicyGradient` or `WeightedRegression` and changes what differs, named
in a configuration as `algorithm: {name: path/to/file.py:Name, ...}`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from torch import Tensor

    from ddpo.core.experience import Array, Experience, State, UpdateSettings
    from ddpo.core.minibatches import Batch
    from ddpo.core.objectives import LossMetrics
    from ddpo.core.policy import Policy


class Algorithm(BaseModel):
    """The seam that training knows every algorithm by."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    name: str
    """As in a configuration."""

    default_updates: ClassVar[int] = 1
    """Updates per iteration unless configured."""
    max_updates: ClassVar[int | None] = None
    """Most updates on an iteration's samples; None: any number."""
    needs_steps: ClassVar[bool] = True
    """Whether it replays the steps that samples were drawn with; without, `x_0` alone is kept."""
    needs_base: ClassVar[bool] = False
    """Whether its loss looks at the base model, of which a copy is kept then."""
    uses_advantages: ClassVar[bool] = True
    """Whether the section `advantage` means anything to it."""

    @property
    def resets_optimizer(self) -> bool:
        """Whether each iteration's updates start with a new optimizer."""
        return False

    def credit(
        self, prompts: Sequence[str], reward_S: Array, state: State, settings: UpdateSettings
    ) -> tuple[Array, State, dict[str, float]]:
        """Return what each sample's update is multiplied by, `(S,)`, the state after, and metrics.

        `prompts` and `reward_S` `(S,)` are those of an iteration, over all processes; every process calls this.
        """
        raise NotImplementedError

    def minibatches(self, policy: Policy, experience: Experience, settings: UpdateSettings) -> Iterator[Batch]:
        """Yield a minibatch for each update of the iteration; the same ones whenever it is called."""
        raise NotImplementedError

    def loss(self, policy: Policy, batch: Any) -> tuple[Tensor, LossMetrics]:
        """Return the loss, averaged over the `N` pairs of a batch, and metrics `(N,)`, each of which is logged.

        A metric `ratio` is the importance ratio: where there is one, replay is checked by it before the first update.
        """
        raise NotImplementedError

    def ratio_tolerance(self, dimensions: int) -> float:
        """Return the largest |ratio - 1| tolerated before the first update, for samples of so many dimensions."""
        del dimensions
        return math.inf

    def samples_in_update(self, samples: int, updates: int) -> int:
        """Return how many samples an update sees when an iteration has so many of both."""
        return samples // updates

    def in_small(self, samples: int) -> Self:
        """Return the same algorithm with updates of so many samples, for a rehearsal."""
        del samples
        return self

    def check_sizes(self, samples: int, updates: int, inner_epochs: int, timestep_fraction: float) -> None:
        """Raise ValueError, naming the setting, when an iteration cannot be cut up like this."""
        del timestep_fraction
        if self.max_updates is not None and updates * inner_epochs > self.max_updates:
            raise ValueError(
                f"updates_per_iteration: {self.name} is on-policy and makes {self.max_updates} update an iteration, "
                f"not {updates * inner_epochs}; use algorithm=ddpo-is for more"
            )
        check_divides("updates_per_iteration", updates, samples)


class PolicyGradient(Algorithm):
    """Replays the stored steps of each sample, whose credit is its advantage (paper C.3, F.1, F.3)."""

    def credit(
        self, prompts: Sequence[str], reward_S: Array, state: State, settings: UpdateSettings
    ) -> tuple[Array, State, dict[str, float]]:
        """Return the advantages `(S,)` and the state of their running statistics."""
        advantage_S, state = settings.advantage(prompts, reward_S, state)
        return advantage_S, state, {}

    def minibatches(self, policy: Policy, experience: Experience, settings: UpdateSettings) -> Iterator[Batch]:
        """Yield shuffled (sample, step) pairs, `settings.number` minibatches an inner epoch."""
        from ddpo.core.minibatches import shuffled_pairs
        from ddpo.core.randomness import Stream

        advantage_B = experience.credit_on(policy.device)
        for epoch in range(settings.inner_epochs):
            yield from shuffled_pairs(
                experience.trajectory,
                advantage_B,
                number=settings.number,
                timestep_fraction=settings.timestep_fraction,
                generator=experience.generator(Stream.SHUFFLE, epoch),
            )


def check_divides(name: str, divisor: int, samples: int) -> None:
    """Raise ValueError unless the samples of an iteration divide by a setting called `name`."""
    if samples % divisor:
        raise ValueError(
            f"samples_per_iteration: {samples} does not divide by {name} ({divisor}); "
            f"{samples // divisor * divisor or divisor} would"
        )
