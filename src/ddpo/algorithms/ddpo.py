"""Denoising diffusion policy optimization, DDPO (paper section C.3, F.1): the configuration is the algorithm."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from ddpo.algorithms.algorithm import PolicyGradient

if TYPE_CHECKING:
    from torch import Tensor

    from ddpo.core.objectives import LossMetrics
    from ddpo.core.policy import Policy
    from ddpo.core.trajectory import Pairs

PAPER_CLIP_RANGE = 1e-4
"""Clip range of every experiment in the paper (F.1), on the mean log-probability over 16384 dimensions."""


class DDPOImportanceSampling(PolicyGradient):
    """DDPO-IS: several clipped updates on each iteration's samples (eq. 4)."""

    name: Literal["ddpo-is"] = "ddpo-is"
    clip_range: float | None = Field(default=None, gt=0, lt=1)
    """Clip of the importance ratio, |ratio - 1| <= clip_range; 1e-4 (paper F.1) when neither clip is given."""
    clip_nats: float | None = Field(default=None, gt=0)
    """The same clip as nats of a whole step, clip_range times the sample's dimensions: 1.64 is the paper's."""
    log_prob: Literal["mean", "sum"] = "mean"
    """Whether the ratio is of the mean over dimensions (public codes) or of the sum (the paper's equations)."""

    default_updates: ClassVar[int] = 4
    """Updates per iteration unless configured (F.1)."""

    @model_validator(mode="after")
    def _one_clip(self) -> DDPOImportanceSampling:
        if self.clip_range is not None and self.clip_nats is not None:
            raise ValueError("give clip_range or clip_nats, not both")
        if self.clip_nats is not None and self.log_prob == "sum":
            raise ValueError("clip_nats goes with log_prob=mean; with log_prob=sum give clip_range, of the true ratio")
        if self.log_prob == "sum" and self.clip_range is None:
            raise ValueError("log_prob=sum needs a clip_range of its own; the paper's 1e-4 belongs to log_prob=mean")
        if self.clip_range is None and self.clip_nats is None:
            object.__setattr__(self, "clip_range", PAPER_CLIP_RANGE)
        return self

    def clip(self, dimensions: int) -> float:
        """Return the clip range of the ratio for samples of so many dimensions."""
        if self.clip_nats is None:
            assert self.clip_range is not None
            return self.clip_range
        return self.clip_nats / dimensions

    def ratio_tolerance(self, dimensions: int) -> float:
        """Return the largest |ratio - 1| tolerated before the first update: a tenth of the clip."""
        return self.clip(dimensions) / 10

    def loss(self, policy: Policy, batch: Pairs) -> tuple[Tensor, LossMetrics]:
        """Return the clipped surrogate of the replayed pairs, averaged, and metrics `(N,)`."""
        from ddpo.core.objectives import clipped_surrogate, importance_ratio
        from ddpo.core.rollout import replay

        D = batch.trajectory.dimensions
        replayed, divisor = replay(policy, batch), D if self.log_prob == "mean" else 1
        log_prob_N, old_log_prob_N = replayed.log_prob_N, batch.log_prob_N
        loss, metrics = clipped_surrogate(
            log_prob_N, old_log_prob_N, batch.advantage_N, clip_range=self.clip(D), dimensions=divisor
        )
        ratio_N = importance_ratio(log_prob_N.detach(), old_log_prob_N, dimensions=divisor)
        return loss, metrics | {"ratio": ratio_N, "kl/step": replayed.kl_N}


class DDPOScoreFunction(PolicyGradient):
    """DDPO-SF: one update on each iteration's samples, on-policy (eq. 3)."""

    name: Literal["ddpo-sf"] = "ddpo-sf"
    log_prob: Literal["mean", "sum"] = "mean"
    """Whether log-probabilities are averaged or summed over dimensions: the scale of the gradient."""

    default_updates: ClassVar[int] = 1
    """Updates per iteration (F.1)."""
    max_updates: ClassVar[int | None] = 1
    """The estimator is on-policy: a second update would use samples of an older policy."""

    def ratio_tolerance(self, dimensions: int) -> float:
        """Return the largest |ratio - 1| tolerated: what a tenth of the paper's clip is in nats of a whole step."""
        return PAPER_CLIP_RANGE / 10 * 16384 / (dimensions if self.log_prob == "mean" else 1)

    def loss(self, policy: Policy, batch: Pairs) -> tuple[Tensor, LossMetrics]:
        """Return the score-function loss of the replayed pairs, averaged, and metrics `(N,)`."""
        import torch

        from ddpo.core.objectives import importance_ratio, score_function
        from ddpo.core.rollout import replay

        divisor = batch.trajectory.dimensions if self.log_prob == "mean" else 1
        replayed = replay(policy, batch)
        loss, _ = score_function(replayed.log_prob_N, batch.advantage_N, dimensions=divisor)
        ratio_N = importance_ratio(replayed.log_prob_N.detach(), batch.log_prob_N, dimensions=divisor)
        metrics = {"clip_fraction": torch.zeros_like(ratio_N)}  # nothing is clipped
        return loss, metrics | {"ratio": ratio_N, "kl/step": replayed.kl_N}
