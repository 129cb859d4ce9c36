"""Run folders as `ddpo train` writes them, made up in a moment: drawings that get plainer while the reward rises."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image, ImageDraw

from ddpo.runs.folder import RunFolder

LABELS = {"jpeg-compressibility": "negative JPEG size (kB)", "judge-recognition": "judge's recognition"}
ANIMALS = ("cat", "goat", "fish", "duck", "horse", "owl", "whale", "bee")


def write_run(
    path: Path,
    *,
    iterations: int = 24,
    planned: int | None = None,
    every: int = 4,
    samples: int = 16,
    size: int = 64,
    gain: float = 0.9,
    forgets: bool = True,
    algorithm: str = "ddpo-is",
    seed: int = 0,
    prompts: tuple[str, ...] = tuple(f"a {animal}" for animal in ANIMALS),
    changes: dict[str, Any] | None = None,
) -> RunFolder:
    """Write a run whose reward rises by `gain` kB; with `forgets` its recognition falls meanwhile."""
    folder, generator = RunFolder(path), np.random.default_rng(seed)
    folder.samples.mkdir(parents=True)
    folder.write_config(yaml.safe_dump(_config(planned or iterations, algorithm) | (changes or {}), sort_keys=False))
    for iteration in range(0, iterations + 1, every):
        write_evaluation(
            folder, iteration, iteration / max(iterations, 1),
            samples=samples, size=size, gain=gain, forgets=forgets, seed=seed, prompts=prompts,
        )  # fmt: skip
    for iteration in range(1, iterations + 1):
        folder.append_metrics(_metrics(iteration, iteration / iterations, gain, algorithm, generator))
    return folder


def write_evaluation(
    folder: RunFolder,
    iteration: int,
    progress: float,
    *,
    samples: int,
    size: int,
    gain: float,
    forgets: bool,
    seed: int,
    prompts: tuple[str, ...],
) -> None:
    """Write the sheet and the record of the fixed samples at `progress`, 0 to 1, of the training."""
    columns = math.ceil(math.sqrt(samples))
    sheet = Image.new("RGB", (columns * size, math.ceil(samples / columns) * size))
    records = []
    for index in range(samples):
        generator = np.random.default_rng((seed, index))
        row, column = divmod(index, columns)
        sheet.paste(_picture(generator, progress, size, index), (column * size, row * size))
        reward = -2.4 + 0.3 * generator.normal() + progress * gain * (1 + 0.3 * generator.normal())
        known = not forgets or generator.random() > 0.6 * progress
        records.append(
            {
                "prompt": prompts[index % len(prompts)],
                "seed": 10**18 + index,
                "rewards": {"jpeg-compressibility": reward, "judge-recognition": float(known)},
            }
        )
    files = folder.sample_files(iteration)
    sheet.save(files.tiles)
    folder.write_sample_record(
        iteration,
        {
            "iteration": iteration,
            "tiles": {"file": files.tiles.name, "columns": columns, "width": size, "height": size},
            "diversity": 0.31 - 0.14 * progress * forgets,
            "kl_to_base": 31 * progress**1.5,
            "trained_reward": "jpeg-compressibility",
            "labels": LABELS,
            "samples": records,
        },
    )


def _picture(generator: np.random.Generator, progress: float, size: int, index: int) -> Image.Image:
    """Return an animal-like blob on a ground whose pattern fades."""
    ground, body = (
        tuple(int(level) for level in generator.integers(low, high, 3)) for low, high in ((150, 250), (30, 200))
    )
    picture = Image.new("RGB", (size, size), ground)
    draw = ImageDraw.Draw(picture)
    for _ in range(round(26 * (1 - progress))):
        x, y = generator.integers(0, size, 2)
        length = size // 10
        draw.ellipse((x, y, x + length, y + length), fill=tuple(int(level) for level in generator.integers(60, 255, 3)))
    middle, radius = size / 2, size * (0.24 + 0.08 * math.sin(index))
    draw.ellipse((middle - radius, middle - radius * 0.7, middle + radius, middle + radius), fill=body)
    head = radius * 0.62
    draw.ellipse((middle - head, middle - radius - head, middle + head, middle - radius + head), fill=body)
    for side in (-1, 1):
        eye = middle + side * head * 0.4
        draw.ellipse((eye - 2, middle - radius - 2, eye + 2, middle - radius + 2), fill="black")
    return picture


def _config(iterations: int, algorithm: str) -> dict[str, Any]:
    return {
        "name": "emoji",
        "seed": 0,
        "model": {"name": "embedded", "revision": None},
        "reward": "jpeg-compressibility",
        "algorithm": {"name": algorithm, "clip_range": 1e-4},
        "iterations": iterations,
        "samples_per_iteration": 128,
        "updates_per_iteration": 4,
        "inner_epochs": 1,
        "learning_rate": 1e-4,
        "lora": {"rank": None},
        "evaluation": {"number": 16, "every": 4, "rewards": ["judge-recognition"]},
    }


def _metrics(
    iteration: int, progress: float, gain: float, algorithm: str, generator: np.random.Generator
) -> dict[str, float]:
    std = 0.4 * (1 - 0.4 * progress)
    metrics = {
        "iteration": iteration,
        "reward_queries": 128 * iteration,
        "reward/mean": -2.4 + gain * progress + 0.05 * generator.normal(),
        "reward/std": std,
        "reward/standard_error": std / math.sqrt(128),
        "time/rollout": 5.1 + 0.2 * generator.random(),
        "time/decode": 0.6,
        "time/reward": 0.09,
        "gradient_norm": 0.4 + 0.1 * generator.random(),
        "something/new": 3.0 + progress,
    }
    if algorithm.startswith("rwr"):
        metrics |= _buckets("denoising_loss", 0.12 - 0.03 * progress, generator) | {"weight/effective_samples": 88.0}
    else:
        metrics |= _buckets("clip_fraction", 0.1 + 0.2 * progress, generator)
        metrics |= _buckets("kl/step", 0.01 * (1 + progress), generator)
        metrics |= _buckets("ratio/max_error_at_start", 1e-7 * iteration, generator)
        metrics["updates_skipped"] = 0
    return metrics | {"time/update": 11.3 + generator.random()}


def _buckets(key: str, value: float, generator: np.random.Generator) -> dict[str, float]:
    stretches = {
        f"{key}/bucket_{bucket}": value * 2 ** (bucket - 3) * (0.9 + 0.2 * generator.random()) for bucket in range(1, 6)
    }
    return stretches | {key: value}


def change_record(folder: RunFolder, iteration: int, **changes: Any) -> None:
    """Replace keys of the record of one evaluation."""
    path = folder.sample_files(iteration).record
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
