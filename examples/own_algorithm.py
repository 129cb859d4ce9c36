"""An algorithm of your own: DDPO-IS that is also held near the base model by the exact KL divergence of each step.

    ddpo train "algorithm={name: examples/own_algorithm.py:Anchored, clip_nats: 0.5, penalty: 0.01}" iterations=12

An algorithm is a pydantic class: its settings are its fields. `PolicyGradient` and `WeightedRegression` in
`ddpo.algorithms` give credit and cut minibatches; a loss returns a number to minimise and metrics `(N,)`, all of which
are logged.
"""

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ddpo.algorithms import DDPOImportanceSampling
from ddpo.core.policy import Policy
from ddpo.core.rollout import denoising_step
from ddpo.core.trajectory import Pairs


class Anchored(DDPOImportanceSampling):
    """DDPO-IS with a penalty on the divergence from the base model."""

    name: str = "anchored"
    needs_base: ClassVar[bool] = True
    penalty: float = Field(default=0.01, ge=0)
    """Loss for each nat of a step's divergence from the base model, in units of the normalised reward."""

    def loss(self, policy: Policy, batch: Pairs) -> tuple[Tensor, dict[str, Any]]:
        pairs = batch.filled()  # the same rows as in the rollout: kernels for another number round differently
        step = (pairs.state_N, pairs.step_N, pairs.conditioning_N)
        with torch.no_grad(), policy.base_model():
            base = denoising_step(policy, *step)
        surrogate, metrics = super().loss(policy, batch)
        kl_N = base.kl(denoising_step(policy, *step).mean)[: len(batch)]
        return surrogate + self.penalty * kl_N.mean(), metrics | {"kl/step_to_base": kl_N.detach()}
