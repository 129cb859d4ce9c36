"""Train the judge: which of the 45 animals does a picture show, or none of them ("other")."""

import importlib.util
import json
import math
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import drawings
import numpy as np
import torch
import train_autoencoder
from compose import MILD, STRONG, Composer, Mixture
from nouns import ANIMALS
from safetensors.torch import load_file, save_file
from torch.nn import functional

LABELS = [*ANIMALS, "other"]
HELD_OUT_SOURCES = ("noto-v1", "fxemoji")
BATCH = 96
PEAK_RATE = 3e-3
DECODED_POOL = 6144


def network() -> ModuleType:
    """The network's one definition, `src/ddpo/embedded/judge.py`, loaded by path: `ddpo` need not be installed."""
    path = Path(__file__).parents[2] / "src" / "ddpo" / "embedded" / "judge.py"
    spec = importlib.util.spec_from_file_location("embedded_judge", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _composer(
    cache: Path, seed: int, *, only: tuple[str, ...] = (), without: tuple[str, ...] = (), mild: bool
) -> Composer:
    pictures, records = drawings.load(cache)
    kept = [i for i, r in enumerate(records) if r.source not in without and (not only or r.source in only)]
    mixture = Mixture(animals=0.85)
    return Composer(pictures[kept], [records[i] for i in kept], seed, MILD if mild else STRONG, mixture)


@torch.no_grad()
def decoded_pool(cache: Path, without: tuple[str, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures that went through the autoencoder with some noise on the latents: what generated pictures look like."""
    model, composer = train_autoencoder.load(cache), _composer(cache, 77, without=without, mild=True)
    pictures, labels = [], []
    for _ in range(DECODED_POOL // 128):
        images, _, label = composer.batch(128)
        with torch.autocast("cpu", torch.bfloat16):
            latents = model.encode(images * 2 - 1).latent_dist.mean
            latents = latents + torch.rand(len(latents), 1, 1, 1) * 0.5 * torch.randn_like(latents)
            output = model.decode(latents).sample
        pictures.append((output.float() / 2 + 0.5).clamp(0, 1))
        labels.append(label)
    return torch.cat(pictures), torch.cat(labels)


def spoil(images: torch.Tensor) -> torch.Tensor:
    """Blur a third of the pictures, add a little noise to another third."""
    which = torch.rand(len(images))[:, None, None, None]
    small = functional.interpolate(images, scale_factor=0.5, mode="area")
    blurred = functional.interpolate(small, scale_factor=2, mode="bilinear")
    noisy = images + torch.rand(len(images), 1, 1, 1) * 0.08 * torch.randn_like(images)
    return torch.where(which < 1 / 3, blurred, torch.where(which < 2 / 3, noisy, images)).clamp(0, 1)


def fit(cache: Path, minutes: float, without: tuple[str, ...] = (), start_from: Path | None = None) -> torch.nn.Module:
    """Train for some minutes on one core, on all sources but `without`; on from the weights `start_from`, if given."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    judge: torch.nn.Module = network().Judge(LABELS)
    if start_from is not None and start_from.exists():
        judge.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(start_from).items()})
    decoded, decoded_labels = decoded_pool(cache, without)
    composer = _composer(cache, int(time.time()), without=without, mild=False)
    optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=0.05, fused=True)
    start, shown, step = time.monotonic(), 0.0, 0
    while (progress := (time.monotonic() - start) / (minutes * 60)) < 1:
        rate = PEAK_RATE * min(1.0, progress / 0.03 + 0.01) * 0.5 * (1 + math.cos(math.pi * progress))
        optimizer.param_groups[0]["lr"] = rate
        images, _, labels = composer.batch(BATCH)
        extra = torch.from_numpy(random.integers(len(decoded), size=BATCH // 3))
        images = torch.cat([spoil(images), decoded[extra]])
        labels = torch.cat([labels, decoded_labels[extra]])
        with torch.autocast("cpu", torch.bfloat16):
            logits = judge(images)
        loss = functional.cross_entropy(logits.float(), labels, label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        if time.monotonic() - shown > 20:
            shown = time.monotonic()
            print(f"judge {progress:.0%} step {step} loss {loss:.3f}", flush=True)
    return judge.eval()


@torch.no_grad()
def accuracy(judge: torch.nn.Module, composer: Composer, count: int = 4096) -> dict[str, float]:
    """Top-1 over animals alone and over everything."""
    right, animal = [], []
    for _ in range(count // 256):
        images, _, labels = composer.batch(256)
        right.append(judge(images).argmax(-1) == labels)
        animal.append(labels < len(ANIMALS))
    hits, animals = torch.cat(right).float(), torch.cat(animal)
    return {"animals": round(float(hits[animals].mean()), 4), "all": round(float(hits.mean()), 4)}


def measure_held_out(cache: Path, minutes: float) -> None:
    """How well the recipe does on sources it never saw; the judge that ships is another, trained on all."""
    judge = fit(cache, minutes, HELD_OUT_SOURCES)
    figures = {
        "sources": list(HELD_OUT_SOURCES),
        "held_out_sources": accuracy(judge, _composer(cache, 901, only=HELD_OUT_SOURCES, mild=True)),
        "seen_sources": accuracy(judge, _composer(cache, 902, without=HELD_OUT_SOURCES, mild=True)),
    }
    (cache / "judge-held-out.json").write_text(json.dumps(figures))
    print(figures)


def train(cache: Path, minutes: float) -> None:
    """Train on every source, on from `judge.safetensors` if there is one; write it (fp16) and `judge.json`."""
    judge = fit(cache, minutes, start_from=cache / "judge.safetensors")
    figures: dict[str, Any] = {
        "mild": accuracy(judge, _composer(cache, 903, mild=True)),
        "strong": accuracy(judge, _composer(cache, 904, mild=False)),
    }
    weights = {k: v.half() if v.is_floating_point() else v for k, v in judge.state_dict().items()}
    save_file({name: value.contiguous() for name, value in weights.items()}, cache / "judge.safetensors")
    (cache / "judge.json").write_text(json.dumps({"labels": LABELS, "held_out_augmentations": figures}))
    print(figures)
