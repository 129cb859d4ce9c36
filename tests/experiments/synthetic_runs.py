"""Run folders as training leaves them, with values that tests and drawings can choose."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from ddpo.experiments.tables import FinishedRun

ANIMALS = ("cat", "dog", "horse", "monkey", "rabbit", "zebra", "spider", "bird", "sheep", "kangaroo")
SIDE = 16

Value = Callable[[float, int, int], float]
"""From the share of the training that is done, the seed and the prompt's number to a sample's score."""


def rising(start: float, end: float, *, seed_spread: float = 0.0, prompt_spread: float = 0.0) -> Value:
    """Return a score that goes from `start` to `end`, fast at first, differing between seeds and prompts."""

    def value(done: float, seed: int, prompt: int) -> float:
        noise = np.random.default_rng([seed, prompt]).normal() * prompt_spread
        shift = np.random.default_rng([seed, 99]).normal() * seed_spread * done
        return float(start + (end - start) * (1 - np.exp(-2 * done)) / (1 - np.exp(-2)) + shift + noise)

    return value


def write_run(
    folder: Path,
    *,
    recipe: str = "emoji-compressibility",
    variant: str = "ddpo-is",
    seed: int = 0,
    iterations: int = 8,
    every: int = 2,
    samples_per_iteration: int = 128,
    reward: str = "jpeg-compressibility",
    label: str = "negative JPEG size (kB)",
    value: Value | None = None,
    others: dict[str, Value] | None = None,
    kl: bool = False,
) -> FinishedRun:
    """Write a run folder and return it as the tables want it."""
    value = value or rising(-2.4, -1.6)
    samples = folder / "samples"
    samples.mkdir(parents=True)
    lines = []
    for iteration in range(iterations + 1):
        done = iteration / iterations
        if iteration:
            mean = (
                value((iteration - 1) / iterations, seed, 50) + 0.02 * np.random.default_rng([seed, iteration]).normal()
            )
            lines.append({"iteration": iteration, "reward_queries": iteration * samples_per_iteration,
                          "reward/mean": mean, "reward/standard_error": 0.03})  # fmt: skip
        if iteration % every == 0 or iteration == iterations:
            _write_evaluation(samples, iteration, done, seed, reward, label, value, others or {}, kl)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return FinishedRun(folder, recipe, variant, seed)


def _write_evaluation(samples, iteration, done, seed, reward, label, value, others, kl):
    prompts = [f"a {animal}" for animal in ANIMALS] * 2
    columns, rows = 5, 4
    sheet = np.zeros((rows * SIDE, columns * SIDE, 3), np.uint8)
    for index in range(len(prompts)):
        y, x = index // columns * SIDE, index % columns * SIDE
        sheet[y : y + SIDE, x : x + SIDE] = _picture(index, done)
    stem = f"iteration-{iteration:06d}"
    Image.fromarray(sheet).save(samples / f"{stem}-tiles.png")
    record = {
        "iteration": iteration,
        "tiles": {"file": f"{stem}-tiles.png", "columns": columns, "width": SIDE, "height": SIDE},
        "diversity": 0.35 - 0.1 * done,
        "kl_to_base": 40 * done if kl else None,
        "trained_reward": reward,
        "labels": {reward: label} | {name: name for name in others},
        "samples": [
            {
                "prompt": prompt,
                "seed": 1000 + index,
                "rewards": {reward: value(done, seed, index)}
                | {name: other(done, seed, index) for name, other in others.items()},
            }
            for index, prompt in enumerate(prompts)
        ],
    }
    (samples / f"{stem}.json").write_text(json.dumps(record))


def _picture(index: int, done: float) -> np.ndarray:
    """Return a disc whose colour tells the prompt and whose radius shrinks with training."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2 + 0.5
    disc = (x**2 + y**2 < (SIDE / 2 * (1 - 0.6 * done)) ** 2)[..., None]
    color = np.array([(40 * index) % 256, 90, 255 - (25 * index) % 256])
    return np.where(disc, color, 245).astype(np.uint8)


def write_evaluation(
    file: Path, label: str, *, reward: str, words: str, change: float, prompts: int, recognition: bool
):
    """Write a file as `ddpo evaluate` does and return it as the tables want it."""
    generator = np.random.default_rng(len(label))
    rows, labels = [], {reward: {"label": words}}
    if recognition:
        labels["judge-recognition"] = {"label": "judge's recognition"}
    for prompt in range(prompts):
        for seed in range(4):
            base = float(generator.normal(-2, 0.2))
            rows.append({"prompt": f"{label} {prompt}", "seed": seed, "reward": reward,
                         "base": base, "trained": base + change + float(generator.normal(0, 0.15))})  # fmt: skip
            if recognition:
                rows.append({"prompt": f"{label} {prompt}", "seed": seed, "reward": "judge-recognition",
                             "base": 1.0, "trained": float(generator.random() < 0.9)})  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"rewards": labels, "samples": rows}))
    return label, file
