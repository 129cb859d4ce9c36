"""The rewards on CLIP weights against their published formulas, on small random checkpoints."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_clip import build_tokenizer, save_clip
from torch.nn import functional

from ddpo import media
from ddpo.rewards import load_reward, score
from ddpo.rewards.aesthetic import load_head, rate
from ddpo.rewards.clip import clip_pixels
from ddpo.runtime.errors import RewardError

PROMPTS = ["a cat", "a dog riding a bike", "ant"]
AESTHETIC = Path(__file__).parents[3] / "shared/data/aesthetic"


@pytest.fixture
def images():
    return torch.from_numpy(np.random.default_rng(0).random((3, 3, 40, 31), dtype=np.float32))


@pytest.fixture
def clip(tmp_path):
    return save_clip(tmp_path)


def value(name, images, **options):
    return score(load_reward({"name": name, "device": "cpu", **options}), media.Image(), images, PROMPTS, [{}] * 3)


def processor_pixels(images, size):
    """The second source of CLIP's preprocessing: transformers' image processor."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    pictures = [Image.fromarray(x) for x in (images * 255).round().byte().permute(0, 2, 3, 1).numpy()]
    processor = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    return processor(pictures, return_tensors="pt")["pixel_values"]


def one_by_one_cosines(model, images):
    """The second source: the model's own forward, a sample at a time and without padding; its logits are scaled."""
    tokenizer, cosines = build_tokenizer(), []
    for image, prompt in zip(images, PROMPTS, strict=True):
        ids = [*[0, *(tokenizer.convert_tokens_to_ids(t) for t in tokenizer.tokenize(prompt))][:15], 1]
        out = model(input_ids=torch.tensor([ids]), pixel_values=processor_pixels(image[None], 28))
        cosines.append((out.logits_per_image / model.logit_scale.exp()).item())
    return np.array(cosines)


@pytest.mark.parametrize("shape", [(28, 28), (40, 31), (31, 64), (224, 224)])
def test_pixels_are_those_of_clips_processor(shape):
    images = torch.from_numpy(np.random.default_rng(1).random((2, 3, *shape), dtype=np.float32))
    torch.testing.assert_close(clip_pixels(images, 28), processor_pixels(images, 28), atol=1e-5, rtol=0)


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_clip_score_is_a_hundred_cosines(clip, tmp_path, images, batch_size):
    with torch.no_grad():
        expected = 100 * one_by_one_cosines(clip, images)
    assert expected.std() > 1  # or any order of the samples would do
    got = value("clip-score", images, model=str(tmp_path), batch_size=batch_size)
    np.testing.assert_allclose(got, expected, atol=1e-3)


def test_pickscore_is_scaled_by_the_models_own_temperature(clip, tmp_path, images):
    with torch.no_grad():
        clip.logit_scale.fill_(math.log(7.0))
        clip.save_pretrained(tmp_path)
        expected = 7 * one_by_one_cosines(clip, images)
    got = value("pickscore", images, model=str(tmp_path), tokenizer=str(tmp_path))
    np.testing.assert_allclose(got, expected, atol=1e-4)


def open_clip_weights(seed=3):
    """Random weights under open_clip's names: text 16 wide, vision 20 wide, 2 blocks each, embeddings of 12."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return 0.4 * torch.randn(shape, generator=generator)

    letters = len(build_tokenizer())
    weights = {"token_embedding.weight": draw(letters, 16), "positional_embedding": draw(16, 16)}
    weights |= {"text_projection": draw(16, 12), "logit_scale": torch.tensor(4.6)}
    weights |= {"visual.class_embedding": draw(20), "visual.positional_embedding": draw(5, 20)}
    weights |= {"visual.conv1.weight": draw(20, 3, 14, 14), "visual.proj": draw(20, 12)}
    layers = {"ln_final": 16, "visual.ln_pre": 20, "visual.ln_post": 20}
    for tower, width in (("", 16), ("visual.", 20)):
        for block in range(2):
            name = f"{tower}transformer.resblocks.{block}"
            layers |= {f"{name}.ln_1": width, f"{name}.ln_2": width}
            shapes = {"attn.in_proj_": (3 * width, width), "attn.out_proj.": (width, width)}
            shapes |= {"mlp.c_fc.": (24, width), "mlp.c_proj.": (width, 24)}
            for part, shape in shapes.items():
                weights |= {f"{name}.{part}weight": draw(*shape), f"{name}.{part}bias": draw(shape[0])}
    for name, width in layers.items():
        weights |= {f"{name}.weight": 1 + draw(width), f"{name}.bias": draw(width)}
    return weights


class OpenClip:
    """The second source: CLIP as its paper and open_clip define it, written out on the raw tensors."""

    def __init__(self, weights):
        self.weights = weights

    def norm(self, name, x):
        return functional.layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def linear(self, name, x, joint="."):
        return x @ self.weights[f"{name}{joint}weight"].T + self.weights[f"{name}{joint}bias"]

    def blocks(self, tower, x, mask):
        length, width = x.shape
        for block in range(2):
            name = f"{tower}transformer.resblocks.{block}"
            projected = self.linear(f"{name}.attn.in_proj", self.norm(f"{name}.ln_1", x), "_")
            q, k, v = (part.view(length, 2, width // 2).transpose(0, 1) for part in projected.split(width, 1))
            attention = (q @ k.transpose(1, 2) / math.sqrt(width / 2) + mask).softmax(-1)
            x = x + self.linear(f"{name}.attn.out_proj", (attention @ v).transpose(0, 1).reshape(length, width))
            inner = functional.gelu(self.linear(f"{name}.mlp.c_fc", self.norm(f"{name}.ln_2", x)))
            x = x + self.linear(f"{name}.mlp.c_proj", inner)
        return x

    def image(self, pixels_CHW):
        patches = functional.conv2d(pixels_CHW[None], self.weights["visual.conv1.weight"], stride=14)[0].flatten(1).T
        x = torch.cat([self.weights["visual.class_embedding"][None], patches])
        x = self.norm("visual.ln_pre", x + self.weights["visual.positional_embedding"])
        return self.norm("visual.ln_post", self.blocks("visual.", x, torch.zeros(()))[0]) @ self.weights["visual.proj"]

    def text(self, ids):
        x = self.weights["token_embedding.weight"][ids] + self.weights["positional_embedding"][: len(ids)]
        causal = torch.full((len(ids), len(ids)), -torch.inf).triu(1)
        return self.norm("ln_final", self.blocks("", x, causal)[-1]) @ self.weights["text_projection"]


@pytest.mark.parametrize("format", ["pt", "safetensors"])
def test_hpsv2_reads_open_clips_checkpoint(clip, tmp_path, images, format):
    weights, tokenizer = open_clip_weights(), build_tokenizer()
    if format == "pt":
        torch.save({"epoch": 3, "name": "x", "state_dict": weights}, tmp_path / "HPS_v2.1_compressed.pt")
        source = tmp_path
    else:
        source = tmp_path / "hps.safetensors"
        save_file(weights, source)
    network, expected = OpenClip(weights), []
    for pixels, prompt in zip(processor_pixels(images, 28), PROMPTS, strict=True):
        ids = [*[0, *tokenizer.convert_tokens_to_ids(tokenizer.tokenize(prompt))][:15], 1]
        expected.append(torch.cosine_similarity(network.image(pixels), network.text(ids), dim=0).item())
    assert np.std(expected) > 0.01
    got = value("hpsv2", images, weights=str(source), architecture=str(tmp_path))
    np.testing.assert_allclose(got, expected, atol=1e-5)


def head_weights(width, seed=5):
    generator = torch.Generator().manual_seed(seed)
    sizes = {0: (7, width), 2: (5, 7), 4: (4, 5), 6: (3, 4), 7: (1, 3)}
    weights = {f"layers.{n}.weight": torch.randn(shape, generator=generator) for n, shape in sizes.items()}
    return weights | {f"layers.{n}.bias": torch.randn(shape[0], generator=generator) for n, shape in sizes.items()}


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_aesthetic_is_the_affine_layers_of_the_normalised_embedding(clip, tmp_path, images, batch_size):
    weights = head_weights(12)
    torch.save(weights, tmp_path / "aesthetic-model.pth")
    with torch.no_grad():
        projected = clip(input_ids=torch.tensor([[0, 1]]), pixel_values=processor_pixels(images, 28)).image_embeds
    x = projected.double().numpy()
    x /= np.sqrt((x**2).sum(1, keepdims=True))
    for number in (0, 2, 4, 6, 7):
        x = x @ weights[f"layers.{number}.weight"].double().numpy().T + weights[f"layers.{number}.bias"].numpy()
    assert x.std() > 0.01
    got = value("aesthetic", images, model=str(tmp_path), weights=str(tmp_path), batch_size=batch_size)
    np.testing.assert_allclose(got, x[:, 0], atol=1e-4)


@pytest.mark.skipif(not AESTHETIC.is_dir(), reason="the real head and embeddings are not beside this checkout")
def test_the_real_head_rates_the_real_embeddings_rising_from_1_66_to_5_75():
    (head,) = AESTHETIC.glob("*.safetensors")
    assert set(load_file(head)) == {f"layers.{n}.{kind}" for n in (0, 2, 4, 6, 7) for kind in ("weight", "bias")}
    embedding_BE = torch.from_numpy(np.load(AESTHETIC / "clip_vit_l14_rating_embeddings.npy"))
    rating_B = rate(load_head(str(AESTHETIC), 768, "cpu"), embedding_BE).numpy()
    assert (np.diff(rating_B) > 0).all()
    np.testing.assert_allclose(rating_B[[0, -1]], [1.66, 5.75], atol=0.005)
    # A scale of the embeddings is divided out.
    np.testing.assert_allclose(rate(load_head(str(AESTHETIC), 768, "cpu"), 3 * embedding_BE), rating_B, atol=1e-5)


def test_networks_are_loaded_once_in_float32_without_dropout_or_gradients(tmp_path):
    from ddpo.rewards.clip import load_clip

    save_clip(tmp_path).half().save_pretrained(tmp_path)
    clip = load_clip(str(tmp_path), str(tmp_path), "cpu")
    assert clip is load_clip(str(tmp_path), str(tmp_path), "cpu")
    assert not clip.network.training
    assert {(p.dtype, p.requires_grad) for p in clip.network.parameters()} == {(torch.float32, False)}


@pytest.mark.parametrize("name", ["aesthetic", "clip-score", "pickscore", "hpsv2", "image-reward", "nsfw-penalty"])
def test_a_hub_that_cannot_be_reached_says_what_to_do(name, images, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        RewardError, match=rf"^Reward '{name}': (\w+): .*cannot be reached; .* give a folder as '\1'\.$"
    ):
        value(name, images)


def test_what_is_no_such_checkpoint_is_refused(clip, tmp_path, images):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RewardError, match=r"weights: .* holds neither aesthetic-model.pth nor exactly one safetensors"):
        load_head(str(tmp_path / "empty"), 12, "cpu")
    save_file({"layers.0.weight": torch.zeros(1, 13), "layers.0.bias": torch.zeros(1)}, tmp_path / "head.safetensors")
    with pytest.raises(RewardError, match=r"holds no layers 'layers.N' from 12 numbers to one"):
        load_head(str(tmp_path / "head.safetensors"), 12, "cpu")
    with pytest.raises(RewardError, match=r"device: 'gpu9' cannot be used"):
        value("clip-score", images, device="gpu9", model=str(tmp_path))


def test_missing_weights_are_refused_rather_than_drawn_at_random(clip, tmp_path, images):
    weights = load_file(tmp_path / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RewardError, match=r"model: .* has no weights 'visual_projection.weight'; give a CLIPModel"):
        value("clip-score", images, model=str(tmp_path))


class Hostile:
    """Runs a function of its own choice when it is unpickled."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return Path.touch, (self.proof,)


def test_a_hostile_checkpoint_raises_and_does_not_run(tmp_path):
    torch.save({"layers.0.weight": Hostile(tmp_path / "ran")}, tmp_path / "aesthetic-model.pth")
    with pytest.raises(RewardError, match=r"weights: .* was not read, since a pickle may run any program"):
        load_head(str(tmp_path), 12, "cpu")
    assert not (tmp_path / "ran").exists()
