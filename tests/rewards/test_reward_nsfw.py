"""The NSFW penalty against a ViT written out on the raw tensors of a small random checkpoint."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional

from ddpo import media
from ddpo.rewards import load_reward, score
from ddpo.rewards.nsfw import vit_pixels
from ddpo.runtime.errors import RewardError

WIDTH, HEADS, SIDE, PATCH = 16, 2, 32, 16


@pytest.fixture
def images():
    return torch.from_numpy(np.random.default_rng(0).random((3, 3, 40, 31), dtype=np.float32))


def save_vit(folder, labels):
    """Save a random ViT of two layers whose classes are `labels`; return its tensors."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=HEADS, intermediate_size=24, image_size=SIDE,
        patch_size=PATCH, id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)},
    )  # fmt: skip
    model = ViTForImageClassification(config)
    with torch.no_grad():  # freshly built weights are so small that every picture would get the same score
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def processor_pixels(images, size):
    """The second source of the preprocessing: transformers' image processor."""
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    pictures = [Image.fromarray(x) for x in (images * 255).round().byte().permute(0, 2, 3, 1).numpy()]
    return ViTImageProcessorPil(size={"height": size, "width": size})(pictures, return_tensors="pt")["pixel_values"]


def logits(weights, pixels_CHW):
    """The second source of the network: ViT (arXiv:2010.11929), eq. 1 to 4, for one picture."""

    def linear(name, x):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name, x):
        return functional.layer_norm(x, (WIDTH,), weights[f"{name}.weight"], weights[f"{name}.bias"], eps=1e-12)

    def heads(x):
        return x.view(len(x), HEADS, WIDTH // HEADS).transpose(0, 1)

    patch = "vit.embeddings.patch_embeddings.projection"
    tokens = functional.conv2d(pixels_CHW[None], weights[f"{patch}.weight"], weights[f"{patch}.bias"], stride=PATCH)
    x = torch.cat([weights["vit.embeddings.cls_token"][0], tokens[0].flatten(1).T])
    x = x + weights["vit.embeddings.position_embeddings"][0]
    for block in range(2):
        name = f"vit.encoder.layer.{block}"
        before = norm(f"{name}.layernorm_before", x)
        q, k, v = (heads(linear(f"{name}.attention.attention.{part}", before)) for part in ("query", "key", "value"))
        mixed = (q @ k.transpose(1, 2) / math.sqrt(WIDTH / HEADS)).softmax(-1) @ v
        x = x + linear(f"{name}.attention.output.dense", mixed.transpose(0, 1).reshape(len(x), WIDTH))
        inner = functional.gelu(linear(f"{name}.intermediate.dense", norm(f"{name}.layernorm_after", x)))
        x = x + linear(f"{name}.output.dense", inner)
    return linear("classifier", norm("vit.layernorm", x)[0])


def penalty(images, folder, **options):
    reward = load_reward({"name": "nsfw-penalty", "model": str(folder), "device": "cpu", **options})
    return score(reward, media.Image(), images, ["a cat"] * len(images), [{}] * len(images))


@pytest.mark.parametrize("shape", [(32, 32), (40, 31), (31, 64), (16, 20)])
def test_pixels_are_those_of_vits_processor(shape):
    images = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    assert vit_pixels(images, SIDE).shape == (2, 3, SIDE, SIDE)
    np.testing.assert_allclose(vit_pixels(images, SIDE), processor_pixels(images, SIDE), atol=1e-6)


@pytest.mark.parametrize(("labels", "label"), [(["normal", "nsfw"], 1), (["NSFW", "sfw", "drawing"], 0)])
@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_the_penalty_is_minus_the_probability_of_the_class_called_nsfw(tmp_path, images, labels, label, batch_size):
    weights = save_vit(tmp_path, labels)
    expected = [-logits(weights, pixels).softmax(0)[label].item() for pixels in processor_pixels(images, SIDE)]
    assert np.std(expected) > 0.01
    got = penalty(images, tmp_path, batch_size=batch_size)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert got.dtype == np.float64


def test_a_classifier_without_that_class_is_refused(tmp_path, images):
    save_vit(tmp_path, ["cat", "dog"])
    with pytest.raises(
        RewardError, match=r"^Reward 'nsfw-penalty': model: .* has no class 'nsfw' among cat, dog; give"
    ):
        penalty(images, tmp_path)
