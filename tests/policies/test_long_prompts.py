"""A prompt longer than the text encoder reads: the user is told once, and the picture is that of its beginning."""

from __future__ import annotations

import warnings

import pytest
import torch

from ddpo.core.prompt import Prompt
from ddpo.evaluation.sampling import draw_to_files, sampling_config
from ddpo.policies import PolicySettings
from ddpo.policies.loading import ModelSource
from ddpo.policies.stable_diffusion import StableDiffusionPolicy
from ddpo.runtime.errors import DDPOWarning

LIMIT = 16
"""Tokens that the tiny tokenizer, of single letters, takes: 14 letters, and the marks of beginning and end."""


@pytest.fixture
def policy(tiny_pipeline):
    return StableDiffusionPolicy.from_source(ModelSource(name=str(tiny_pipeline())), PolicySettings())


def test_the_user_is_told_once_and_the_rest_of_the_prompt_does_not_count(policy):
    with pytest.warns(DDPOWarning, match=f"has {LIMIT + 1} tokens: the text encoder reads the first {LIMIT}") as told:
        encoded = policy.encode([Prompt("a " * 15), Prompt("a " * 14), Prompt("b " * 5_000)])
    assert len(told) == 1
    assert torch.equal(encoded["prompt"][0], encoded["prompt"][1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy.encode([Prompt("c " * 100)])


def test_a_prompt_that_fits_needs_no_word(policy):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy.encode([Prompt("a " * 14)])


def test_pictures_of_long_prompts_have_names_of_their_own(tiny_pipeline, tmp_path):
    config, weights = sampling_config(str(tiny_pipeline()), steps=1, device="cpu")
    prompts = ["猫" * 5_000, "猫" * 5_000 + "犬", "a cat"]
    with pytest.warns(DDPOWarning):
        files = draw_to_files(config, weights, prompts, number=1, seed=0, output=tmp_path / "out")
    assert len({file.name for file in files if file.is_file()}) == 3
    assert files[2].name == "a-cat-0.png"
