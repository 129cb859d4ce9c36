"""A short run on a tiny pipeline, and whether two runs are the same run."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from tiny_pipeline import build_pipeline

from ddpo.config import TrainConfig, parse_config
from ddpo.report.progress import QuietDisplay
from ddpo.runs.checkpoints import Checkpoints
from ddpo.runs.folder import RunFolder

ITERATIONS = 3
SETTINGS: dict[str, Any] = {
    "prompts": ["a cat", "a dog", "an ant"],
    "iterations": ITERATIONS,
    "samples_per_iteration": 8,
    "updates_per_iteration": 2,
    "batch_size": 4,
    "sampler": {"steps": 4},
    "learning_rate": 1e-3,
    "algorithm": {"name": "ddpo-is", "clip_nats": 1.64},
    "advantage": {"buffer_size": 8, "min_count": 2},  # the rewards of earlier iterations count
    "evaluation": {"number": 2, "every": 2},
    "checkpoint_every": 1,
    "threads": 1,
    "device": "cpu",
}
"""Three iterations of two batches and two updates, a checkpoint after each, fixed samples after the second."""


def save_model(folder: Path) -> Path:
    """Write a tiny pipeline and return its folder."""
    build_pipeline().save_pretrained(folder)
    return folder


def tiny_run(model: Path, output: Path, **changes: Any) -> TrainConfig:
    """Return the configuration of `SETTINGS` with changes."""
    return parse_config({"name": "tiny", "model": str(model), "output": output, **SETTINGS, **changes})


def by_content(images: Any, prompts: list[str], metadata: list[dict[str, Any]]) -> Any:
    """A reward that looks at every pixel and every prompt, (B,)."""
    return images.mean((1, 2, 3)).numpy() + 0.1 * np.array([len(prompt) for prompt in prompts])


class Signalling(QuietDisplay):
    """Sends this process a signal when a phase has been reported for the `at`-th time."""

    def __init__(self, phase: str = "", at: int = 0, number: int = signal.SIGTERM) -> None:
        self.wanted, self.at, self.number = phase, at, number
        self.calls = 0
        self.said: list[str] = []

    def phase(self, name: str, done: int, total: int) -> None:
        self.calls += name == self.wanted
        if name == self.wanted and self.calls == self.at:
            self.reached()

    def reached(self) -> None:
        """Do what is to be done then."""
        os.kill(os.getpid(), self.number)

    def message(self, text: str) -> None:
        self.said.append(text)


def without_times(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return metrics without what differs between two runs of the same."""
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in metrics]


def difference(folder: RunFolder, whole: RunFolder) -> str | None:
    """Return what tells a run from one that was not interrupted; None if nothing does.

    Compared are weights and moments, metrics of every iteration, the fixed samples and their pictures, bit for bit.
    """
    ours, theirs = (
        load_file(Checkpoints(each.checkpoints).get().folder / "training.safetensors") for each in (folder, whole)
    )
    if ours.keys() != theirs.keys():
        return f"tensors {sorted(ours.keys() ^ theirs.keys())[:3]}"
    other = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    if other:
        return f"{len(other)} tensors, such as {other[0]}"
    if without_times(folder.read_metrics()) != without_times(whole.read_metrics()):
        return f"metrics of iterations {[row['iteration'] for row in folder.read_metrics()]}"
    files = [path.relative_to(whole.path) for path in whole.samples.iterdir()] + [Path(whole.before_after.name)]
    changed = [path for path in files if (folder.path / path).read_bytes() != (whole.path / path).read_bytes()]
    return f"file {changed[0]}" if changed else None
