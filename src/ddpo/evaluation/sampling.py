"""Drawing samples from a run, one of its checkpoints, or a model."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ddpo.config import TrainConfig, load_config, parse_config
from ddpo.core.policy import Policy
from ddpo.core.prompt import Prompt
from ddpo.core.rollout import rollout
from ddpo.evaluation.loading import load_policy
from ddpo.policies.loading import EMBEDDED
from ddpo.report.grid import draw_grid
from ddpo.runs.checkpoints import STATE, Checkpoint
from ddpo.runs.folder import RunFolder, picture_file
from ddpo.runtime.errors import ModelError, RunFolderError
from ddpo.runtime.files import expanded, write_atomically
from ddpo.runtime.processes import Runtime

LONGEST_NAME = 100
"""Bytes of a prompt in the name of its picture: file systems take 255, with seed and suffix."""


def draw(policy: Policy, prompts: Sequence[Prompt], seeds: Sequence[int], *, batch_size: int) -> Tensor:
    """Return decoded samples `(B, ...)` on the CPU, one for each prompt and seed: images `(B, 3, H, W)` in [0, 1]."""
    trajectory = rollout(policy, policy.encode(prompts), seeds, batch_size=batch_size)
    return policy.decode(trajectory.final)


def sampling_config(
    source: str, *, steps: int | None = None, guidance_scale: float | None = None, device: str | None = None
) -> tuple[TrainConfig, Path | None]:
    """Return the configuration that samples a run or one of its checkpoints (with the weights) or a model (None).

    A model is sampled as the default recipe does if it is the embedded one, else with the paper's settings.

    Raises:
        ConfigError, ModelError, RunFolderError: the source is none of these, or the run has no trained model yet.
        CheckpointError: the checkpoint is damaged.
    """
    path = expanded(source)
    checkpoint = Checkpoint(path) if (path / STATE).is_file() else None
    folder = RunFolder(path if checkpoint is None else path.resolve().parents[1])
    weights = None
    if folder.config.is_file():
        tree = load_config(folder.config).model_dump(mode="json")
        weights = folder.model if checkpoint is None else path
        if not weights.is_dir():
            raise RunFolderError(f"{folder.path} has no {folder.model.name}/ yet: its run is not finished.")
        if checkpoint is not None:
            checkpoint.verify()
    else:
        tree = (load_config() if source == EMBEDDED else TrainConfig()).model_dump(mode="json")
        tree["model"] = {"name": source}
    tree |= {"precision": "fp32", "device": device}
    if steps is not None:
        tree["sampler"]["steps"] = steps
    if guidance_scale is not None:
        tree["guidance_scale"] = guidance_scale
    config = parse_config(tree)
    if config.policy is None:
        config.model.resolve()
    return config, weights


def draw_to_files(
    config: TrainConfig, weights: Path | None, prompts: Sequence[str], *, number: int, seed: int, output: Path
) -> list[Path]:
    """Draw `number` samples of each prompt with seeds `seed`, `seed + 1`, ... and return the files written.

    `output` ending in .png: the picture itself, or a grid with captions of several; in .npy: the samples `(B, ...)` as
    numbers; otherwise a folder of pictures. A picture is the one that the diffusers pipeline gives with DDIM, the same
    settings and a CPU generator of the same seed. Samples that are no pictures are drawn as plots.

    Raises:
        ModelError: the model cannot be loaded, or its samples cannot be drawn.
    """
    runtime = Runtime(device=config.device, threads=config.threads)
    texts = [prompt for prompt in prompts for _ in range(number)]
    seeds = [seed + index for _ in prompts for index in range(number)]
    policy = load_policy(config, runtime.device, weights)
    samples = draw(policy, [Prompt(text) for text in texts], seeds, batch_size=min(config.batch_size, len(texts)))
    if output.suffix.lower() == ".npy":
        write_atomically(output, _as_npy(samples))
        return [output]
    pixels = policy.medium.thumbnails(samples)
    if pixels is None:
        raise ModelError("These samples cannot be drawn; give --output FILE.npy to have them as numbers.")
    if output.suffix.lower() == ".png" and len(texts) > 1:
        draw_grid(
            pixels, [f"{text}, seed {s}" if text else f"seed {s}" for text, s in zip(texts, seeds, strict=True)], output
        )
        return [output]
    if output.suffix.lower() == ".png":
        files = [output]
    else:
        files = [picture_file(output, _shortened(text) or "sample", s) for text, s in zip(texts, seeds, strict=True)]
    _write_pictures(files, pixels)
    return files


def _write_pictures(files: Sequence[Path], pixels: NDArray[np.uint8]) -> None:
    from PIL import Image

    for file, picture in zip(files, pixels, strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(file)


def _as_npy(samples: Tensor) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, samples.numpy(), allow_pickle=False)
    return buffer.getvalue()


def _shortened(prompt: str) -> str:
    """Return a prompt that can be the name of a file: a long one's first words and a hash of all of it."""
    if len(prompt.encode()) <= LONGEST_NAME:
        return prompt
    start = prompt.encode()[:LONGEST_NAME].decode(errors="ignore")
    return f"{start} {hashlib.sha256(prompt.encode()).hexdigest()[:8]}"
