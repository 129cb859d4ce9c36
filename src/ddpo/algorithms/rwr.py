"""Reward-weighted regression, RWR (paper section C.2, F.2): the denoising loss on the model's own samples, weighted."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field

from ddpo.algorithms.algorithm import Algorithm

if TYPE_CHECKING:
    from torch import Tensor

    from ddpo.core.experience import Array, Experience, State, UpdateSettings
    from ddpo.core.minibatches import NoisedSamples
    from ddpo.core.objectives import LossMetrics
    from ddpo.core.policy import Policy


class WeightedRegression(Algorithm):
    """What both variants share: everything but the weights."""

    reweighting: Literal["prompt", "dataset"] = "prompt"
    """Whether a sample is weighed against the others of its prompt (F.3) or of the whole iteration (F.2)."""
    samples_per_update: int = Field(default=128, ge=1)
    """Noised samples in an update, each at a timestep of its own (F.6: batch size)."""
    fresh_optimizer: bool = True
    """Start each iteration's updates with a new optimizer."""
    memory_gb: float = Field(default=4.0, ge=0)
    """Without effect: accepted for the configurations of older runs. Clean samples stay in memory."""

    default_updates: ClassVar[int] = 400
    """Updates per iteration unless configured (F.6)."""
    needs_steps: ClassVar[bool] = False
    """It noises the clean samples again."""
    uses_advantages: ClassVar[bool] = False
    """It weighs samples."""

    @property
    def resets_optimizer(self) -> bool:
        """As configured."""
        return self.fresh_optimizer

    def samples_in_update(self, samples: int, updates: int) -> int:
        """Return the noised samples of an update."""
        del samples, updates
        return self.samples_per_update

    def in_small(self, samples: int) -> Self:
        """Return the same regression on so many samples, weighed against each other."""
        return self.model_copy(update={"samples_per_update": samples, "reweighting": "dataset"})

    def check_sizes(self, samples: int, updates: int, inner_epochs: int, timestep_fraction: float) -> None:
        """Raise ValueError for settings of replayed steps."""
        del samples, updates
        for name, value in (("inner_epochs", inner_epochs), ("timestep_fraction", timestep_fraction)):
            if value != 1:
                raise ValueError(f"{name}: {self.name} draws its own timesteps; leave {name} at 1")

    def credit(
        self, prompts: Sequence[str], reward_S: Array, state: State, settings: UpdateSettings
    ) -> tuple[Array, State, dict[str, float]]:
        """Return the weights `(S,)` and how concentrated they are."""
        from ddpo.core.weights import effective_samples

        weight_S = self.weights(prompts, reward_S)
        kept = float((weight_S > 0).mean())
        return weight_S, state, {"weight/kept": kept, "weight/effective_samples": effective_samples(weight_S)}

    def weights(self, prompts: Sequence[str], rewards: Array) -> Array:
        """Return the weights `(B,)` of samples with these prompts and rewards `(B,)`; mean 1 over those above 0."""
        weight_B = self._weights(prompts if self.reweighting == "prompt" else None, rewards)
        weight_B /= weight_B[weight_B > 0].mean()
        return weight_B

    def minibatches(self, policy: Policy, experience: Experience, settings: UpdateSettings) -> Iterator[NoisedSamples]:
        """Yield `settings.number` minibatches of noised samples (C.2)."""
        from ddpo.core.minibatches import noised_samples
        from ddpo.core.randomness import Stream

        # A process draws minibatches from the samples it kept. Scaled by how many these are of an even share, the mean
        # over processes is the mean over all kept samples.
        share = (experience.credit_B != 0).sum() * experience.processes / max(1, (experience.credit_S != 0).sum())
        return noised_samples(
            experience.trajectory.final,
            experience.trajectory.conditioning,
            experience.credit_on(policy.device, share),
            policy.forward_process,
            number=settings.number,
            size=self.samples_per_update // experience.processes,
            generator=experience.generator(Stream.DENOISING, experience.first),
        )

    @abstractmethod
    def _weights(self, prompts: Sequence[str] | None, rewards: Array) -> Array: ...

    def loss(self, policy: Policy, batch: NoisedSamples) -> tuple[Tensor, LossMetrics]:
        """Return the weighted denoising loss of noised samples (eq. 1), averaged, and metrics `(N,)`."""
        from ddpo.core.objectives import reward_weighted

        process = policy.forward_process
        noised = process.noised(batch.clean, batch.noise, batch.time_N)
        predicted = policy.predict(noised, batch.time_N, batch.conditioning, guided=policy.trains_guidance)
        target = process.target(batch.clean, batch.noise, batch.time_N)
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
