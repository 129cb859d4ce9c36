"""ImageReward on a small random checkpoint under its own names, against BLIP written out on the raw tensors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from ddpo import media
from ddpo.rewards import load_reward, score
from ddpo.runtime.errors import RewardError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog", "riding", "bike"]
PROMPTS = ["a cat", "a dog riding a bike", "a bike riding a cat"]
VISION, TEXT, PATCH = 64, 128, 14  # one attention head of 64 numbers, and two


def linear_weights(draw, name, inputs, outputs):
    return {f"{name}.weight": draw(outputs, inputs), f"{name}.bias": draw(outputs)}


def norm_weights(draw, name, width):
    return {f"{name}.weight": 1 + draw(width), f"{name}.bias": draw(width)}


def attention_weights(draw, name, width, source):
    weights = norm_weights(draw, f"{name}.output.LayerNorm", width)
    weights |= linear_weights(draw, f"{name}.output.dense", width, width)
    for part, inputs in (("query", width), ("key", source), ("value", source)):
        weights |= linear_weights(draw, f"{name}.self.{part}", inputs, width)
    return weights


def checkpoint():
    """Random weights under the names in ImageReward.pt; 28x28 pictures, two layers each."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return 0.3 * torch.randn(shape, generator=generator)

    eye, text = "blip.visual_encoder", "blip.text_encoder"
    weights = {f"{eye}.cls_token": draw(1, 1, VISION), f"{eye}.pos_embed": draw(1, 5, VISION)}
    weights |= {f"{eye}.patch_embed.proj.weight": draw(VISION, 3, PATCH, PATCH)}
    weights |= {f"{eye}.patch_embed.proj.bias": draw(VISION)} | norm_weights(draw, f"{eye}.norm", VISION)
    for block in (f"{eye}.blocks.{n}" for n in range(2)):
        weights |= norm_weights(draw, f"{block}.norm1", VISION) | norm_weights(draw, f"{block}.norm2", VISION)
        weights |= linear_weights(draw, f"{block}.attn.qkv", VISION, 3 * VISION)
        weights |= linear_weights(draw, f"{block}.attn.proj", VISION, VISION)
        weights |= linear_weights(draw, f"{block}.mlp.fc1", VISION, 96)
        weights |= linear_weights(draw, f"{block}.mlp.fc2", 96, VISION)
    weights |= {f"{text}.embeddings.word_embeddings.weight": draw(len(WORDS), TEXT)}
    weights |= {f"{text}.embeddings.position_embeddings.weight": draw(40, TEXT)}
    weights |= {f"{text}.embeddings.position_ids": torch.arange(40)[None]}
    weights |= norm_weights(draw, f"{text}.embeddings.LayerNorm", TEXT)
    for layer in (f"{text}.encoder.layer.{n}" for n in range(2)):
        weights |= attention_weights(draw, f"{layer}.attention", TEXT, TEXT)
        weights |= attention_weights(draw, f"{layer}.crossattention", TEXT, VISION)
        weights |= linear_weights(draw, f"{layer}.intermediate.dense", TEXT, 96)
        weights |= linear_weights(draw, f"{layer}.output.dense", 96, TEXT)
        weights |= norm_weights(draw, f"{layer}.output.LayerNorm", TEXT)
    for number, inputs, outputs in ((0, TEXT, 9), (2, 9, 7), (4, 7, 5), (6, 5, 3), (7, 3, 1)):
        weights |= linear_weights(draw, f"mlp.layers.{number}", inputs, outputs)
    return weights


class Blip:
    """The second source: the published architecture for one picture and one prompt, no padding, float64."""

    def __init__(self, weights):
        self.weights = {name: value.double() for name, value in weights.items()}

    def linear(self, name, x):
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def norm(self, name, x, epsilon):
        return functional.layer_norm(
            x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], epsilon
        )

    def attend(self, query, key, value):
        heads = [part.view(len(part), -1, 64).transpose(0, 1) for part in (query, key, value)]
        weights = (heads[0] @ heads[1].transpose(1, 2) / math.sqrt(64)).softmax(-1)
        return (weights @ heads[2]).transpose(0, 1).reshape(query.shape)

    def see(self, pixels):
        eye = "blip.visual_encoder"
        patches = [
            self.weights[f"{eye}.patch_embed.proj.weight"].flatten(1)
            @ pixels[:, y : y + PATCH, x : x + PATCH].flatten()
            + self.weights[f"{eye}.patch_embed.proj.bias"]
            for y in (0, PATCH)
            for x in (0, PATCH)
        ]
        x = torch.stack([self.weights[f"{eye}.cls_token"][0, 0], *patches]) + self.weights[f"{eye}.pos_embed"][0]
        for block in (f"{eye}.blocks.{n}" for n in range(2)):
            parts = self.linear(f"{block}.attn.qkv", self.norm(f"{block}.norm1", x, 1e-6)).split(VISION, 1)
            x = x + self.linear(f"{block}.attn.proj", self.attend(*parts))
            inner = functional.gelu(self.linear(f"{block}.mlp.fc1", self.norm(f"{block}.norm2", x, 1e-6)))
            x = x + self.linear(f"{block}.mlp.fc2", inner)
        return self.norm(f"{eye}.norm", x, 1e-6)

    def read(self, ids, seen):
        text = "blip.text_encoder"
        x = self.weights[f"{text}.embeddings.word_embeddings.weight"][ids]
        x = x + self.weights[f"{text}.embeddings.position_embeddings.weight"][: len(ids)]
        x = self.norm(f"{text}.embeddings.LayerNorm", x, 1e-12)
        for layer in (f"{text}.encoder.layer.{n}" for n in range(2)):
            for part, source in (("attention", None), ("crossattention", seen)):
                name, keys = f"{layer}.{part}", x if source is None else source
                query = self.linear(f"{name}.self.query", x)
                mixed = self.attend(
                    query, self.linear(f"{name}.self.key", keys), self.linear(f"{name}.self.value", keys)
                )
                x = self.norm(f"{name}.output.LayerNorm", x + self.linear(f"{name}.output.dense", mixed), 1e-12)
            inner = functional.gelu(self.linear(f"{layer}.intermediate.dense", x))
            x = self.norm(f"{layer}.output.LayerNorm", x + self.linear(f"{layer}.output.dense", inner), 1e-12)
        return x[0]

    def reward(self, pixels, ids):
        x = self.read(ids, self.see(pixels.double()))
        for number in (0, 2, 4, 6, 7):
            x = self.linear(f"mlp.layers.{number}", x)
        return (x.item() - 0.16717362830052426) / 1.0333394966054072


@pytest.fixture
def folder(tmp_path):
    from transformers import BertTokenizer

    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    torch.save(checkpoint(), tmp_path / "ImageReward.pt")
    return tmp_path


@pytest.fixture
def images():
    return torch.from_numpy(np.random.default_rng(0).random((3, 3, 28, 28), dtype=np.float32))


def value(images, folder, **options):
    options = {"weights": str(folder), "tokenizer": str(folder), "device": "cpu"} | options
    return score(load_reward({"name": "image-reward"} | options), media.Image(), images, PROMPTS, [{}] * 3)


@pytest.mark.parametrize("batch_size", [1, 16])
def test_it_is_blip_reading_the_prompt_and_the_picture(folder, images, batch_size):
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    blip, expected = Blip(checkpoint()), []
    for image, prompt in zip(images, PROMPTS, strict=True):
        levels = np.asarray(Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()))
        pixels = (torch.from_numpy(levels.copy()).permute(2, 0, 1) / 255 - mean) / std
        ids = [WORDS.index(word) for word in ("[CLS]", *prompt.split(), "[SEP]")]
        expected.append(blip.reward(pixels, ids))
    assert np.std(expected) > 0.01
    np.testing.assert_allclose(value(images, folder, batch_size=batch_size), expected, rtol=1e-4, atol=1e-4)


def test_both_the_picture_and_the_prompt_count(folder, images):
    same = images[:1].expand(3, -1, -1, -1)
    assert len(set(value(same, folder).round(5))) == 3
    swapped = value(images[[1, 0, 2]], folder)
    assert (abs(swapped - value(images, folder)) > 1e-5).tolist() == [True, True, False]


def test_a_checkpoint_that_lacks_weights_is_refused(folder, images):
    weights = checkpoint()
    del weights["blip.visual_encoder.blocks.1.mlp.fc2.bias"]
    torch.save(weights, folder / "broken.pt")
    with pytest.raises(RewardError, match=r"weights: .*broken.pt cannot be loaded: .*fc2\.bias"):
        value(images, folder, weights=str(folder / "broken.pt"))
