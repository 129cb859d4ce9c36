"""The model that ships: stock format, small, drawing animals that its judge recognises, trainable in a minute."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from ddpo import embedded_model, media
from ddpo.config import load_config
from ddpo.evaluation.loading import load_policy
from ddpo.evaluation.sampling import draw, draw_to_files, sampling_config
from ddpo.prompts import load_prompts
from ddpo.rewards import load_reward, score
from ddpo.training.run import train

CHANCE = 1 / 45


def megabytes(paths):
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6


def test_it_is_small_and_complete():
    folder = embedded_model()
    assert megabytes(folder.rglob("*")) <= 15
    assert megabytes([folder.parent / "judge.safetensors"]) <= 3
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    classes = {name: index[name][1] for name in ("text_encoder", "tokenizer", "unet", "vae", "scheduler")}
    assert classes == {
        "text_encoder": "CLIPTextModel",
        "tokenizer": "CLIPTokenizer",
        "unet": "UNet2DConditionModel",
        "vae": "AutoencoderKL",
        "scheduler": "DDIMScheduler",
    }
    for notice in ("NOTICES.md", "MODEL_CARD.md"):
        assert (folder.parent / notice).is_file()


def test_finding_it_loads_nothing_heavy():
    code = "import sys, ddpo; ddpo.embedded_model(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_its_animals_are_recognised_far_above_chance():
    config = load_config(None, ["device=cpu", "precision=fp32"])
    policy = load_policy(config, torch.device("cpu"))
    prompts = load_prompts("simple-animals").fixed(90)
    texts, metadata = [prompt.text for prompt in prompts], [prompt.metadata for prompt in prompts]
    images = draw(policy, prompts, list(range(90)), batch_size=30)
    recognised = score(load_reward("judge-recognition"), media.Image(), images, texts, metadata)
    probability = score(load_reward("judge"), media.Image(), images, texts, metadata)
    assert recognised.mean() > 10 * CHANCE
    assert probability.mean() > 10 * CHANCE


def test_a_lora_trained_on_it_draws_the_same_in_stock_diffusers(tmp_path):
    changes = [
        "iterations=1",
        "samples_per_iteration=8",
        "batch_size=8",
        "evaluation.number=1",
        "evaluation.rewards=[]",
    ]
    settings = ["lora.rank=4", "learning_rate=3e-3", "precision=fp32", "device=cpu", "threads=1"]
    folder = train(load_config(None, [*changes, *settings, f"output={tmp_path / 'run'}"])).folder
    config, weights = sampling_config(str(folder.path))
    [file] = draw_to_files(config, weights, ["a cat"], number=1, seed=11, output=tmp_path / "cat.png")

    stock = StableDiffusionPipeline.from_pretrained(embedded_model())
    stock.load_lora_weights(folder.model)
    stock.set_progress_bar_config(disable=True)
    picture = stock(
        "a cat",
        num_inference_steps=config.sampler.steps,
        guidance_scale=config.guidance_scale,
        eta=1.0,
        generator=torch.Generator().manual_seed(11),
    ).images[0]
    difference = np.asarray(picture, dtype=int) - np.asarray(Image.open(file), dtype=int)
    assert np.abs(difference).max() <= 1


def test_the_minimal_example_raises_its_reward(request, capsys):
    example = runpy.run_path(request.config.rootpath / "examples" / "minimal.py")
    example["main"].__globals__.update(
        ITERATIONS=4, SAMPLES=24, BATCH=24, LEARNING_RATE=1.5e-3
    )  # in a third of its time
    example["main"]()
    rows = re.findall(r"redness ([+-]\d\.\d+) ± (\d\.\d+)", capsys.readouterr().out)
    reward, error = np.array(rows, dtype=float).T
    rise = reward[-2:].mean() - reward[:2].mean()
    assert rise > 3 * np.sqrt((error[:2] ** 2).sum() + (error[-2:] ** 2).sum()) / 2


@pytest.mark.parametrize("prompt", ["a house", "a red car on the moon"])
def test_other_prompts_are_drawn_too(prompt, tmp_path):
    config, weights = sampling_config("embedded", steps=2, device="cpu")
    [file] = draw_to_files(config, weights, [prompt], number=1, seed=0, output=tmp_path / "x.png")
    assert Image.open(file).size == (64, 64)
