"""The run folder: the one interface between training, report and user. Never imports torch.

config.yaml      the resolved configuration; `ddpo train config.yaml` repeats the run
metrics.jsonl    one JSON object per iteration, keys from docs/metrics.md
samples/         the fixed prompts and seeds through training: a grid and a JSON of captions and rewards each
curve.png        reward against reward queries
before-after.png the fixed samples before and after training
model/           the result
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddpo.errors import RunFolderError
from ddpo.files import write_atomically

RUNS = Path("runs")
"""Where runs go that are given no folder."""


@dataclass(frozen=True)
class RunFolder:
    """Paths and records of one run."""

    path: Path

    @classmethod
    def create(cls, output: Path | None, name: str) -> RunFolder:
        """Make an empty run folder: `output`, or `runs/NAME` with the first free number behind it.

        Raises:
            RunFolderError: `output` is not an empty folder or cannot be made.
        """
        cls.check(output)
        path = output if output is not None else _free(RUNS / name)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"output: {path} cannot be made: {error.strerror}.") from error
        return cls(path)

    @staticmethod
    def check(output: Path | None) -> None:
        """Look at the folder a run is to be written into, without making it.

        Raises:
            RunFolderError: it is not an empty folder.
        """
        if output is not None and output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise RunFolderError(f"output: {output} is not empty and is never overwritten; give another folder.")

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Return the folder of an existing run.

        Raises:
            RunFolderError: there is no run in it.
        """
        folder = cls(path)
        if not folder.config.is_file():
            raise RunFolderError(f"{path} is not a run folder: it has no {folder.config.name}.")
        return folder

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One JSON object per iteration."""
        return self.path / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        """Grids of the fixed samples."""
        return self.path / "samples"

    @property
    def curve(self) -> Path:
        """The reward curve."""
        return self.path / "curve.png"

    @property
    def before_after(self) -> Path:
        """Fixed samples before and after training."""
        return self.path / "before-after.png"

    @property
    def model(self) -> Path:
        """The trained weights."""
        return self.path / "model"

    def sample_files(self, iteration: int) -> tuple[Path, Path]:
        """Return the grid and the JSON record of the fixed samples drawn after `iteration` iterations."""
        stem = f"iteration-{iteration:06d}"
        return self.samples / f"{stem}.png", self.samples / f"{stem}.json"

    def write_config(self, text: str) -> None:
        """Write the resolved configuration."""
        write_atomically(self.config, text.encode())

    def append_metrics(self, metrics: Mapping[str, float]) -> None:
        """Append one iteration's metrics as one line."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics, allow_nan=False) + "\n")

    def read_metrics(self) -> list[dict[str, float]]:
        """Return the metrics of all iterations so far."""
        if not self.metrics.is_file():
            return []
        return [json.loads(line) for line in self.metrics.read_text(encoding="utf-8").splitlines() if line]

    def write_sample_record(self, iteration: int, record: Sequence[Mapping[str, Any]]) -> None:
        """Write prompt, seed and rewards of the fixed samples."""
        write_atomically(self.sample_files(iteration)[1], json.dumps(record, indent=1).encode())


def _free(path: Path) -> Path:
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate
