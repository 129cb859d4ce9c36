"""The clean samples of an iteration, which regression trains on: in memory, beyond a limit in shards on disk."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddpo.runtime.errors import RunFolderError

SHARD_BYTES = 64 * 1024 * 1024
"""Samples that no longer fit the memory wait for so many others and go to disk together."""
_NAME = "samples"
"""The tensor in a shard."""


@dataclass(frozen=True)
class _Shard:
    file: Path
    number: int

    def __len__(self) -> int:
        return self.number


class CleanSamples:
    """Samples `x_0` `(B, ...)` float32 in the order they came."""

    def __init__(self, folder: Path, *, memory_bytes: int) -> None:
        """`folder` is emptied; once `memory_bytes` are full it gets safetensors files of at least `SHARD_BYTES`."""
        shutil.rmtree(folder, ignore_errors=True)
        self._folder, self._left = folder, memory_bytes
        self._parts: list[Tensor | _Shard] = []
        self._waiting = 0
        """Parts at the end that go into the next shard."""

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def add(self, samples: Tensor) -> None:
        """Append samples `(B, ...)` from any device.

        Raises:
            RunFolderError: a shard cannot be written.
        """
        samples = samples.detach().to("cpu", torch.float32, copy=True).contiguous()
        self._parts.append(samples)
        if samples.nbytes <= self._left:
            self._left -= samples.nbytes
            return
        self._left = 0  # what comes after the first sample that did not fit goes to disk too
        self._waiting += 1
        waiting = self._parts[-self._waiting :]
        if sum(part.nbytes for part in waiting if isinstance(part, Tensor)) >= SHARD_BYTES:
            self._parts[-self._waiting :] = [self._written(torch.cat([p for p in waiting if isinstance(p, Tensor)]))]
            self._waiting = 0

    def _written(self, samples: Tensor) -> _Shard:
        shard = _Shard(self._folder / f"samples-{len(self._parts):06d}.safetensors", len(samples))
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            save_file({_NAME: samples}, shard.file)
        except (OSError, SafetensorError) as error:
            raise RunFolderError(
                f"{self._folder}: {samples.nbytes / 1e6:.0f} MB of samples cannot be written ({error}); make room, or "
                "raise algorithm.memory_gb to keep them in memory."
            ) from error
        return shard

    def take(self, index_N: Tensor) -> Tensor:
        """Return the samples `(N, ...)` float32 at `index_N` `(N,)` int64, reading no more of a shard than these."""
        rows: list[Tensor | None] = [None] * len(index_N)
        first = 0
        for part in self._parts:
            inside = ((index_N >= first) & (index_N < first + len(part))).nonzero().flatten().tolist()
            for place, row in zip(inside, _rows(part, (index_N[inside] - first).tolist()), strict=True):
                rows[place] = row
            first += len(part)
        return torch.stack([row for row in rows if row is not None])

    def save(self, folder: Path) -> None:
        """Write all samples into a new `folder`, in files whose names sort as the samples came."""
        folder.mkdir(parents=True)
        for number, part in enumerate(self._parts):
            file = folder / f"part-{number:06d}.safetensors"
            if isinstance(part, Tensor):
                save_file({_NAME: part}, file)
            else:
                _linked(part.file, file)

    def restore(self, folder: Path) -> None:
        """Append the samples of a folder that `save` wrote.

        Raises:
            RunFolderError: a shard cannot be written.
        """
        for file in sorted(folder.iterdir()):
            self.add(load_file(file)[_NAME])


def _rows(part: Tensor | _Shard, indices: list[int]) -> list[Tensor]:
    if isinstance(part, Tensor):
        return [part[index] for index in indices]
    if not indices:
        return []
    with safe_open(part.file, framework="pt") as file:
        stored = file.get_slice(_NAME)
        return [stored[index : index + 1][0] for index in indices]


def _linked(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where file systems do not do that."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
