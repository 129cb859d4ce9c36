"""Adapters: their scale is alpha / rank, their first weights come from the seed, and they are trained in float32."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from ddpo.core.kernel import ddim
from ddpo.policies import PolicySettings
from ddpo.policies.loading import ModelSource
from ddpo.policies.lora import LoRA
from ddpo.policies.stable_diffusion import StableDiffusionPolicy


@pytest.fixture
def load(tiny_pipeline):
    def with_adapter(lora, **settings):
        settings = PolicySettings(kernel=partial(ddim, steps=4), lora=lora, **settings)
        return StableDiffusionPolicy.from_source(ModelSource(name=str(tiny_pipeline())), settings)

    return with_adapter


@pytest.mark.parametrize(("alpha", "scale"), [(6.0, 3.0), (None, 1.0)])
def test_adapters_are_scaled_by_alpha_over_rank(load, alpha, scale):
    modules = load(LoRA(rank=2, alpha=alpha)).pipeline.unet.modules()
    scales = [one for module in modules for one in getattr(module, "scaling", {}).values()]
    assert scales
    assert set(scales) == {scale}


def test_first_weights_come_from_the_seed(load):
    def weights(seed):
        torch.manual_seed(123 + seed)  # whatever was drawn before
        return torch.cat([one.detach().flatten() for one in load(LoRA(rank=2), seed=seed).parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_adapters_of_a_network_in_half_precision_are_float32(load):
    adapter = load(LoRA(rank=2), precision="bf16")
    assert {one.dtype for one in adapter.parameters()} == {torch.float32}
