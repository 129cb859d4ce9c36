"""Encode composed pictures once, so that the diffusion training pays neither for drawing nor for the encoder."""

import time
from pathlib import Path

import drawings
import numpy as np
import text
import torch
import train_autoencoder
from compose import Composer
from numpy.typing import NDArray

SHARD = 4096


def produce(rank: int, cache: Path, minutes: float, first_seed: int) -> None:
    """Write shards of SHARD latents for some minutes: `latents/SEED.npz` with fp16 latents and token ids."""
    pictures, records = drawings.load(cache)
    encoder, tokenizer = train_autoencoder.load(cache), text.CLIPTokenizer.from_pretrained(cache / "tokenizer")
    folder, start, seed = cache / "latents", time.monotonic(), first_seed + rank
    folder.mkdir(exist_ok=True)
    while time.monotonic() - start < minutes * 60:
        composer = Composer(pictures, records, seed=seed)
        parts = [_encode(encoder, tokenizer, composer) for _ in range(SHARD // 256)]
        temporary = folder / f"{seed}.tmp.npz"
        np.savez(temporary, latents=np.concatenate([p[0] for p in parts]), tokens=np.concatenate([p[1] for p in parts]))
        temporary.replace(folder / f"{seed}.npz")
        seed += 1000


@torch.no_grad()
def _encode(
    encoder: train_autoencoder.AutoencoderKL, tokenizer: text.CLIPTokenizer, composer: Composer
) -> tuple[NDArray[np.float16], NDArray[np.int16]]:
    images, captions, _ = composer.batch(256)
    with torch.autocast("cpu", torch.bfloat16):
        parts = [
            encoder.encode(part * 2 - 1).latent_dist.mean for part in images.split(32)
        ]  # small parts stay in cache
    latents = torch.cat(parts)
    return latents.half().numpy(), np.array(text.token_ids(tokenizer, captions), dtype=np.int16)


class Latents:
    """All shards in memory; `refresh` takes in those that a producer has added since."""

    def __init__(self, cache: Path) -> None:
        self.folder, self.known = cache / "latents", set[Path]()
        self.shards: list[tuple[NDArray[np.float16], NDArray[np.int16]]] = []
        self.refresh()

    def refresh(self) -> None:
        for path in sorted(set(self.folder.glob("*[0-9].npz")) - self.known):
            with np.load(path) as data:
                self.shards.append((data["latents"], data["tokens"]))
            self.known.add(path)

    def __len__(self) -> int:
        return SHARD * len(self.shards)

    def batch(self, size: int, random: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents (size, 8, 8, 8) float32 and token ids (size, 16) int64."""
        which, where = random.integers(len(self.shards), size=size), random.integers(SHARD, size=size)
        latents = np.stack([self.shards[i][0][j] for i, j in zip(which, where, strict=True)])
        tokens = np.stack([self.shards[i][1][j] for i, j in zip(which, where, strict=True)])
        return torch.from_numpy(latents).float(), torch.from_numpy(tokens).long()
