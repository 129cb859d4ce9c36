"""`base_model()`: the policy is the model before training for a while, and afterwards every bit is as it was."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from ddpo.core.conditioning import Conditioning
from ddpo.core.forward_process import VariancePreserving
from ddpo.core.kernel import ddim
from ddpo.core.prompt import Prompt
from ddpo.policies import NetworkPolicy, PolicySettings
from ddpo.policies.loading import ModelSource
from ddpo.policies.lora import LoRA
from ddpo.policies.stable_diffusion import StableDiffusionPolicy
from ddpo.runtime.errors import ModelError

PROMPTS = [Prompt("a cat"), Prompt("a dog")]
X = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
TIMES = torch.tensor([900, 3])


@pytest.fixture
def load(tiny_pipeline):
    """Return the tiny pipeline's policy with the given settings."""

    def build(**settings):
        made = PolicySettings(**{"kernel": partial(ddim, steps=2), "guidance_scale": 3.0, **settings})
        return StableDiffusionPolicy.from_source(ModelSource(name=str(tiny_pipeline())), made)

    return build


@torch.no_grad()
def predicted(policy):
    return policy.predict(X, TIMES, policy.encode(PROMPTS), guided=True)


@torch.no_grad()
def train(policy):
    generator = torch.Generator().manual_seed(1)
    for parameter in policy.parameters():
        parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


def state(policy):
    """Return every parameter's bits and whether it is trained."""
    return {name: (value.detach().clone(), value.requires_grad) for name, value in policy.network.named_parameters()}


def assert_same_state(policy, expected):
    found = state(policy)
    assert {name: flag for name, (_, flag) in found.items()} == {name: flag for name, (_, flag) in expected.items()}
    assert all(torch.equal(value, expected[name][0]) for name, (value, _) in found.items())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "settings", [{"keep_base": True}, {"lora": LoRA(rank=2)}, {"lora": LoRA(rank=2), "keep_base": True}], ids=str
)
def test_inside_it_is_the_untrained_model_and_afterwards_the_trained_one(load, settings, precision):
    policy = load(precision=precision, **settings)
    untrained = predicted(policy)
    train(policy)
    before, trained = state(policy), predicted(policy)
    assert not torch.allclose(trained, untrained, atol=1e-2)
    with policy.base_model():
        assert torch.equal(predicted(policy), untrained)
    assert_same_state(policy, before)
    assert torch.equal(predicted(policy), trained)
    assert [p.requires_grad for p in policy.parameters()] == [True] * len(policy.parameters())
    predict = policy.predict(X, TIMES, policy.encode(PROMPTS), guided=True)
    predict.sum().backward()  # training goes on
    assert all(parameter.grad is not None for parameter in policy.parameters())


@pytest.mark.parametrize("settings", [{"keep_base": True}, {"lora": LoRA(rank=2)}], ids=str)
def test_the_untrained_model_is_the_one_that_was_loaded(load, settings):
    policy = load(**settings)
    train(policy)
    with policy.base_model():
        assert torch.equal(predicted(policy), predicted(load()))


@pytest.mark.parametrize("settings", [{"keep_base": True}, {"lora": LoRA(rank=2)}], ids=str)
def test_an_error_inside_leaves_every_bit_in_place(load, settings):
    policy = load(**settings)
    train(policy)
    before, trained = state(policy), predicted(policy)
    with pytest.raises(KeyboardInterrupt), policy.base_model():
        raise KeyboardInterrupt
    assert_same_state(policy, before)
    assert torch.equal(predicted(policy), trained)


def test_without_a_copy_there_is_no_base_model(load):
    policy = load()
    with pytest.raises(ModelError) as raised, policy.base_model():
        pass
    assert str(raised.value) == "The base model was not kept: set evaluation.kl_to_base=true, or train by lora.rank."


class Scaling(NetworkPolicy):
    """A user's policy: one linear layer, of which only the weight is trained."""

    def __init__(self, **options):
        network = nn.Linear(2, 2)
        network.bias.requires_grad_(False)
        process = VariancePreserving.cosine(100)
        super().__init__(network, ddim(process, 4), process, (2,), **options)

    def predict(self, x, time_B, conditioning, *, guided):
        return self.network(x)


def test_a_policy_of_the_user_s_own_has_a_base_model_by_default(tmp_path):
    policy, x = Scaling(), torch.ones(3, 2)
    assert [parameter.shape for parameter in policy.parameters()] == [(2, 2)]
    assert len(policy.encode([Prompt()] * 3)) == 3
    no_context = Conditioning.none(3)
    untrained = policy.predict(x, torch.zeros(3), no_context, guided=True)
    train(policy)
    trained = policy.predict(x, torch.zeros(3), no_context, guided=True)
    with policy.base_model():
        assert torch.equal(policy.predict(x, torch.zeros(3), no_context, guided=True), untrained)
    assert torch.equal(policy.predict(x, torch.zeros(3), no_context, guided=True), trained)
    with pytest.raises(ModelError, match="The base model was not kept"), Scaling(keep_base=False).base_model():
        pass


def test_a_policy_of_the_user_s_own_is_saved_and_loaded(tmp_path):
    policy, other, x = Scaling(), Scaling(), torch.ones(1, 2)
    policy.save(tmp_path / "model")
    other.load(tmp_path / "model")
    assert torch.equal(policy.network(x), other.network(x))
    policy.network = nn.Linear(3, 2)
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be loaded: .*size mismatch for weight"):
        policy.load(tmp_path / "model")
    with pytest.raises(ModelError, match="cannot be loaded"):
        policy.load(tmp_path / "nothing")
