"""Encode composed pictures once, so that the diffusion training pays neither for drawing nor for the encoder."""

import time
from pathlib import Path

import text
import torch
import train_autoencoder
from compose import Composer
from torch import Tensor

import training

SHARD = 8192
PART = 512


@torch.no_grad()
def produce(machine: training.Machine) -> None:
    """Add shards until there are enough or the minutes are over: `latents/NUMBER.pt`, fp16 latents, int16 token ids."""
    folder = machine.cache / "latents"
    folder.mkdir(exist_ok=True)
    encoder = train_autoencoder.load(machine.cache).to(machine.device, memory_format=torch.channels_last)
    tokenizer = text.load_tokenizer(machine.cache)
    number, start = len(list(folder.glob("*.pt"))), time.process_time()
    composer = Composer(machine.cache, 1000 + number, machine.device)
    while number < machine.pick(cpu=24, cuda=160) and time.process_time() - start < machine.minutes * 60:
        latents, captions = [], list[str]()
        for _ in range(SHARD // PART):
            images, named, _ = composer.batch(PART)
            with machine.autocast():
                parts = (images * 2 - 1).split(machine.pick(cpu=32, cuda=PART))
                latents += [encoder.encode(part).latent_dist.mean.half().cpu() for part in parts]
            captions += named
        tokens = text.token_ids(tokenizer, captions).to(torch.int16)
        training.save({"latents": torch.cat(latents).contiguous(), "tokens": tokens}, folder / f"{number}.pt")
        number += 1
    print(f"latents: {number} shards of {SHARD}", flush=True)


class Latents:
    """All shards in the memory of a device."""

    def __init__(self, cache: Path, device: torch.device) -> None:
        shards = [torch.load(path, weights_only=True) for path in sorted((cache / "latents").glob("*.pt"))]
        self.latents = torch.cat([shard["latents"] for shard in shards]).to(device)
        self.tokens = torch.cat([shard["tokens"] for shard in shards]).to(device)

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """Latents (size, 16, 8, 8) float32 and token ids (size, 16) int64."""
        which = torch.randint(len(self.tokens), (size,), device=self.tokens.device)
        return self.latents[which].float(), self.tokens[which].long()
