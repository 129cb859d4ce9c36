"""Building the policy that a configuration describes, and drawing pictures from it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch

from ddpo.config import TrainConfig, load_config, parse_config
from ddpo.core.policy import Policy
from ddpo.core.randomness import Stream, derive_seed
from ddpo.core.rollout import rollout
from ddpo.policies.loading import EMBEDDED
from ddpo.policies.parameters import FILE, load_parameters
from ddpo.policies.stable_diffusion import StableDiffusionPolicy, StableDiffusionSettings
from ddpo.report.grid import draw_grid
from ddpo.rewards import to_uint8
from ddpo.runs.checkpoints import STATE, Checkpoint
from ddpo.runs.folder import RunFolder, picture_file
from ddpo.runtime.errors import RunFolderError
from ddpo.runtime.files import expanded
from ddpo.runtime.processes import Runtime

LONGEST_NAME = 100
"""Bytes of a prompt in the name of its picture: file systems take 255, with seed and suffix."""


def load_policy(config: TrainConfig, device: torch.device, weights: Path | None = None) -> StableDiffusionPolicy:
    """Return the policy of a configuration; `weights` is the `model/` folder of a run, put on top of the model.

    With `weights` the policy is for sampling: nothing new is added to be trained. They may be a checkpoint too.

    Raises:
        ModelError: the model cannot be loaded or trained.
        CheckpointError: the checkpoint is of another model.
    """
    if weights is not None and (weights / FILE).is_file():
        policy = load_policy(config, device)
        load_parameters(policy.parameters(), weights)
        return policy
    assert config.precision != "auto", "the run resolves it"
    settings = StableDiffusionSettings(
        sampler=config.sampler.name,
        steps=config.sampler.steps,
        eta=config.sampler.eta,
        guidance_scale=config.guidance_scale,
        cfg_training=config.cfg_training,
        precision=config.precision,
        lora=config.lora if weights is None else config.lora.model_copy(update={"rank": None}),
        seed=derive_seed(config.seed, Stream.WEIGHTS),
        gradient_checkpointing=config.gradient_checkpointing,
        compile=config.compile,
    )
    return StableDiffusionPolicy.load(config.model, settings, device=device, weights=weights)


def draw(policy: Policy, prompts: Sequence[str], seeds: Sequence[int], *, batch_size: int) -> torch.Tensor:
    """Return images `(B, 3, H, W)` float32 in [0, 1] on the CPU, one for each prompt and seed."""
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
    config.model.resolve()
    return config, weights


def draw_pictures(
    config: TrainConfig, weights: Path | None, prompts: Sequence[str], *, number: int, seed: int, output: Path
) -> list[Path]:
    """Draw `number` pictures of each prompt with seeds `seed`, `seed + 1`, ... and return the files written.

    `output` ending in .png: the picture itself, or a grid with captions of several; otherwise a folder of pictures.
    A picture is the one that the diffusers pipeline gives with DDIM, the same settings and a CPU generator of
    the same seed.

    Raises:
        ModelError: the model cannot be loaded.
    """
    from PIL import Image

    runtime = Runtime(device=config.device, threads=config.threads)
    texts = [prompt for prompt in prompts for _ in range(number)]
    seeds = [seed + index for _ in prompts for index in range(number)]
    policy = load_policy(config, runtime.device, weights)
    pixels = to_uint8(draw(policy, texts, seeds, batch_size=min(config.batch_size, len(texts))).numpy())
    if output.suffix.lower() == ".png" and len(texts) > 1:
        draw_grid(pixels, [f"{text}, seed {s}" for text, s in zip(texts, seeds, strict=True)], output)
        return [output]
    if output.suffix.lower() == ".png":
        files = [output]
    else:
        files = [picture_file(output, _shortened(text), s) for text, s in zip(texts, seeds, strict=True)]
    for file, picture in zip(files, pixels, strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(file)
    return files


def _shortened(prompt: str) -> str:
    """Return a prompt that can be the name of a file: a long one's first words and a hash of all of it."""
    if len(prompt.encode()) <= LONGEST_NAME:
        return prompt
    start = prompt.encode()[:LONGEST_NAME].decode(errors="ignore")
    return f"{start} {hashlib.sha256(prompt.encode()).hexdigest()[:8]}"
