"""Reward-weighted regression, RWR (paper section C.2, F.2): the denoising loss on the model's own samples, weighted."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from torch import Tensor

    from ddpo.core.grouping import Array
    from ddpo.core.minibatches import DenoisingBatch
    from ddpo.core.objectives import Metrics
    from ddpo.core.policy import Policy


class WeightedRegression(BaseModel):
    """What both variants share: everything but the weights."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str
    """Told apart by this in a configuration."""
    reweighting: Literal["prompt", "dataset"] = "prompt"
    """Whether a sample is weighed against the others of its prompt (F.3) or of the whole iteration (F.2)."""
    samples_per_update: int = Field(default=128, ge=1)
    """Noised samples in an update, each at a timestep of its own (F.6: batch size)."""
    fresh_optimizer: bool = True
    """Start each iteration's updates with a new optimizer."""
    memory_gb: float = Field(default=4.0, ge=0)
    """Clean samples kept in memory, in GB a process; beyond it they go to disk and stream back."""

    default_updates: ClassVar[int] = 400
    """Updates per iteration unless configured (F.6)."""
    max_updates: ClassVar[int | None] = None
    """No limit on updates per iteration."""

    def weights(self, prompts: Sequence[str], rewards: Array) -> Array:
        """Return the weights `(B,)` of samples with these prompts and rewards `(B,)`; mean 1 over those above 0."""
        weight_B = self._weights(prompts if self.reweighting == "prompt" else None, rewards)
        weight_B /= weight_B[weight_B > 0].mean()
        return weight_B

    @abstractmethod
    def _weights(self, prompts: Sequence[str] | None, rewards: Array) -> Array: ...

    def loss(self, policy: Policy, batch: DenoisingBatch) -> tuple[Tensor, Metrics]:
        """Return the weighted denoising loss of noised samples (eq. 1), averaged, and metrics `(N,)`."""
        from ddpo.core.objectives import reward_weighted

        schedule = policy.schedule
        noised = schedule.noised(batch.clean, batch.noise, batch.timestep_N)
        predicted = policy.predict(noised, batch.timestep_N, policy.encode(batch.prompts))
        target = schedule.target(batch.clean, batch.noise, batch.timestep_N)
        return reward_weighted((predicted - target).square().flatten(1).mean(1), batch.weight_N)


class RewardWeightedRegression(WeightedRegression):
    """RWR: every sample, weighted by its exponentiated reward (C.2)."""

    name: Literal["rwr"] = "rwr"
    beta: float = Field(default=0.2, ge=0)
    """Inverse temperature of the softmax of raw rewards, in 1 / the reward's unit (F.6)."""

    def _weights(self, prompts: Sequence[str] | None, rewards: Array) -> Array:
        from ddpo.core.weights import exponential_weights

        return exponential_weights(prompts, rewards, beta=self.beta)


class SparseRewardWeightedRegression(WeightedRegression):
    """RWR-sparse: only the best samples, all alike (C.2)."""

    name: Literal["rwr-sparse"] = "rwr-sparse"
    percentile: float = Field(default=0.9, ge=0, lt=1)
    """Share of the samples that is discarded, the worst ones (F.6)."""

    def _weights(self, prompts: Sequence[str] | None, rewards: Array) -> Array:
        from ddpo.core.weights import percentile_weights

        return percentile_weights(prompts, rewards, percentile=self.percentile)
