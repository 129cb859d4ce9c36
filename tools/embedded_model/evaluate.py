"""Measure the exported model as a user would load it: the judge's top-1 on the 45 animals, JPEG sizes, a grid."""

import io
import json
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from nouns import ANIMALS, with_article
from PIL import Image, ImageDraw
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
        parts.append(output.images)
    return torch.cat(parts)


def jpeg_kb(image: torch.Tensor) -> float:
    """Size in kB (1000 bytes) of a (3, H, W) picture as JPEG, quality 95."""
    buffer = io.BytesIO()
    to_image(image).save(buffer, "JPEG", quality=95)
    return len(buffer.getvalue()) / 1000


def to_image(image: torch.Tensor) -> Image.Image:
    return Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())


def measure(
    package: Path, number: int, settings: Iterable[tuple[float, int, float]]
) -> list[dict[str, float | dict[str, float]]]:
    """One row a setting (guidance, steps, eta): top-1 over all animals, per animal, mean JPEG kB."""
    pipeline, judge = load_pipeline(package / "model"), network().load_judge(package)
    prompts = [with_article(animal) for animal in ANIMALS for _ in range(number)]
    labels = torch.arange(len(ANIMALS)).repeat_interleave(number)
    rows: list[dict[str, float | dict[str, float]]] = []
    for guidance, steps, eta in settings:
        start = time.monotonic()
        images = generate(pipeline, prompts, guidance, steps, eta, seed=0)
        probability = judge.probabilities(images)
        hits = (probability.argmax(-1) == labels).float().view(len(ANIMALS), number).mean(1)
        rows.append(
            {
                "guidance": guidance,
                "steps": steps,
                "eta": eta,
                "top1": round(float(hits.mean()), 4),
                "probability": round(float(probability[torch.arange(len(labels)), labels].mean()), 4),
                "jpeg_kb": round(float(np.mean([jpeg_kb(image) for image in images])), 3),
                "per_animal": {animal: round(float(hit), 3) for animal, hit in zip(ANIMALS, hits, strict=True)},
            }
        )
        row = {key: value for key, value in rows[-1].items() if key != "per_animal"}
        print(json.dumps(row), f"{time.monotonic() - start:.0f} s", flush=True)
    return rows


def worst(row: dict[str, float | dict[str, float]], count: int = 10) -> str:
    per_animal = row["per_animal"]
    assert isinstance(per_animal, dict)
    ordered = sorted(per_animal.items(), key=lambda item: item[1])
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
