"""Measure the exported model as a user would load it: the judge's top-1 on the 45 animals, JPEG sizes, a grid."""

import io
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from nouns import ANIMALS, with_article
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from train_judge import network

BATCH = 90


def load_pipeline(folder: Path) -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    assert isinstance(pipeline.scheduler, DDIMScheduler)
    return pipeline


@torch.no_grad()
def generate(
    pipeline: StableDiffusionPipeline, prompts: list[str], guidance: float, steps: int, eta: float, seed: int
) -> torch.Tensor:
    """Pictures (len(prompts), 3, 64, 64) in [0, 1]; picture i depends on seed + i alone."""
    parts = []
    for first in range(0, len(prompts), BATCH):
        chunk = prompts[first : first + BATCH]
        generators = [torch.Generator().manual_seed(seed + first + i) for i in range(len(chunk))]
        output = pipeline(
            chunk, guidance_scale=guidance, num_inference_steps=steps, eta=eta, generator=generators, output_type="pt"
        )
        parts.append(output.images.float().cpu())
    return torch.cat(parts)


def jpeg_kb(image: torch.Tensor) -> float:
    """Size in kB (1000 bytes) of a (3, H, W) picture as JPEG, quality 95."""
    buffer = io.BytesIO()
    to_image(image).save(buffer, "JPEG", quality=95)
    return len(buffer.getvalue()) / 1000


def to_image(image: torch.Tensor) -> Image.Image:
    return Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())


def measure(
    package: Path, number: int, settings: Iterable[tuple[float, int, float]], device: torch.device
) -> list[dict[str, Any]]:
    """One row a setting (guidance, steps, eta): each judge's top-1 over all animals and per animal, mean JPEG kB."""
    pipeline = load_pipeline(package / "model").to(device)
    judges = {path.stem: load_judge(path) for path in sorted(package.glob("*judge.safetensors"))}
    prompts = [with_article(animal) for animal in ANIMALS for _ in range(number)]
    labels = torch.arange(len(ANIMALS)).repeat_interleave(number)
    rows: list[dict[str, Any]] = []
    for guidance, steps, eta in settings:
        start = time.monotonic()
        images = generate(pipeline, prompts, guidance, steps, eta, seed=0)
        row: dict[str, Any] = {"guidance": guidance, "steps": steps, "eta": eta}
        for name, judge in judges.items():
            probability = judge.probabilities(images)
            hits = (probability.argmax(-1) == labels).float().view(len(ANIMALS), number).mean(1)
            row[name] = round(float(hits.mean()), 4)
            row[f"{name}_probability"] = round(float(probability[torch.arange(len(labels)), labels].mean()), 4)
            row[f"{name}_per_animal"] = {a: round(float(hit), 3) for a, hit in zip(ANIMALS, hits, strict=True)}
        row["jpeg_kb"] = round(float(np.mean([jpeg_kb(image) for image in images])), 3)
        rows.append(row)
        shown = {key: value for key, value in row.items() if not key.endswith("per_animal")}
        print(json.dumps(shown), f"{time.monotonic() - start:.0f} s", flush=True)
    return rows


def load_judge(weights: Path) -> Any:
    """A judge from its weights and the labels beside them."""
    judge = network().Judge(json.loads(weights.with_suffix(".json").read_text())["labels"])
    state = load_file(weights)
    judge.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return judge.eval().requires_grad_(False)


def worst(row: dict[str, Any], count: int = 10) -> str:
    ordered = sorted(row["judge_per_animal"].items(), key=lambda item: float(item[1]))
    return ", ".join(f"{animal} {hit:.0%}" for animal, hit in ordered[:count])


def grid(package: Path, path: Path, guidance: float, steps: int, eta: float, number: int = 4) -> None:
    """All 45 animals, `number` samples each with consecutive seeds, nothing picked; names above."""
    pipeline, columns = load_pipeline(package / "model"), 5
    prompts = [with_article(animal) for animal in ANIMALS for _ in range(number)]
    images = generate(pipeline, prompts, guidance, steps, eta, seed=10_000)
    width, height = number * 64 + 8, 64 + 14
    sheet = Image.new("RGB", (columns * width, -(-len(ANIMALS) // columns) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for index, animal in enumerate(ANIMALS):
        x, y = index % columns * width, index // columns * height
        draw.text((x + 2, y + 1), with_article(animal), fill="black")
        for k in range(number):
            sheet.paste(to_image(images[index * number + k]), (x + 64 * k, y + 14))
    sheet.quantize(256).save(path, optimize=True)  # a third of the size
