"""LoRA with a frozen network in half precision, on pipelines with and without embeddings that are normalised."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from ddpo import embedded_model
from ddpo.core.kernel import ddim
from ddpo.core.minibatches import shuffled_pairs
from ddpo.core.objectives import importance_ratio
from ddpo.core.prompt import Prompt
from ddpo.core.rollout import replay, rollout
from ddpo.policies import PolicySettings
from ddpo.policies.loading import ModelSource
from ddpo.policies.lora import LoRA
from ddpo.policies.stable_diffusion import StableDiffusionPolicy


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("model", ["tiny", "embedded"])
def test_rollout_replay_and_backward(tiny_pipeline, model, precision):
    source = ModelSource(name=str(tiny_pipeline() if model == "tiny" else embedded_model()))
    settings = PolicySettings(kernel=partial(ddim, steps=3), guidance_scale=3.0, precision=precision, lora=LoRA(rank=2))
    policy = StableDiffusionPolicy.from_source(source, settings)
    frozen = {p.dtype for p in policy.network.parameters() if not p.requires_grad}
    assert frozen == {torch.bfloat16 if precision == "bf16" else torch.float16}
    trajectory = rollout(policy, policy.encode([Prompt("a cat"), Prompt("a dog")]), [0, 1], batch_size=2)
    [pairs] = shuffled_pairs(trajectory, torch.zeros(2), number=1, generator=torch.Generator().manual_seed(0))
    for part in pairs.split(2):
        replayed = replay(policy, part)
        assert torch.equal(importance_ratio(replayed.log_prob_N, part.log_prob_N), torch.ones(2))
        (replayed.log_prob_N.sum() / trajectory.dimensions).backward()
    gradients = [parameter.grad for parameter in policy.parameters()]
    assert all(gradient.dtype == torch.float32 and gradient.isfinite().all() for gradient in gradients)
    assert sum(gradient.abs().sum() for gradient in gradients) > 0
