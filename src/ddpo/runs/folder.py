"""The run folder: the one interface between training, report and user. Never imports torch.

config.yaml      the resolved configuration; `ddpo train config.yaml` repeats the run
metrics.jsonl    one JSON object per iteration, keys from docs/metrics.md
samples/         the fixed prompts and seeds through training: a grid with captions, the bare pictures and a JSON
                 record each (docs/metrics.md)
curve.png        reward against reward queries
before-after.png the fixed samples before and after training
report.html      all of it as one page (docs/report.md)
checkpoints/     from which the run goes on exactly (checkpoints.py)
model/           the result
"""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ddpo.runs.record import EvaluationRecord, RunRecord, comparable
from ddpo.runtime.errors import RunFolderError
from ddpo.runtime.files import flush_to_disk, lock, write_atomically

RUNS = Path("runs")
"""Where runs go that are given no folder."""


class SampleFiles(NamedTuple):
    """The files of one evaluation."""

    grid: Path
    """The fixed samples with captions."""
    record: Path
    """JSON of what was measured."""
    tiles: Path
    """The bare pictures, for programs."""


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
        if output is None or not output.exists():
            return
        if not output.is_dir() or any(path != RunFolder(output).lock_file for path in output.iterdir()):
            raise RunFolderError(f"output: {output} is not empty and is never overwritten; give another folder.")

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Return the folder of an existing run.

        Raises:
            RunFolderError: there is no run in it.
        """
        folder = cls(path)
        if not folder.config.is_file():
            raise RunFolderError(
                f"{path} is not a run folder: it has no {folder.config.name}; give a folder that `ddpo train` wrote."
            )
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
    def report(self) -> Path:
        """The run as one page."""
        return self.path / "report.html"

    @property
    def lock_file(self) -> Path:
        """Locked by the process that writes the folder, which it names."""
        return self.path / ".lock"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The trained weights."""
        return self.path / "model"

    def sample_files(self, iteration: int) -> SampleFiles:
        """Return the files of the fixed samples drawn after `iteration` iterations."""
        stem = self.samples / f"iteration-{iteration:06d}"
        return SampleFiles(Path(f"{stem}.png"), Path(f"{stem}.json"), Path(f"{stem}-tiles.png"))

    def write_config(self, text: str) -> None:
        """Write the resolved configuration."""
        write_atomically(self.config, text.encode())

    def append_metrics(self, metrics: Mapping[str, float]) -> None:
        """Append one iteration's metrics as one line, which is on the disk when this returns."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics, allow_nan=False) + "\n")
        flush_to_disk(self.metrics)

    def keep_metrics(self, iterations: int) -> list[dict[str, float]]:
        """Remove the metrics of later iterations than so many, which are going to be made again; return the others.

        Raises:
            RunFolderError: a line is not a JSON object, iterations are missing, or the file cannot be written.
        """
        kept = [metrics for metrics in self.read_metrics() if metrics.get("iteration", 0) <= iterations]
        if [metrics.get("iteration") for metrics in kept] != list(range(1, iterations + 1)):
            raise RunFolderError(
                f"{self.metrics} does not hold every iteration from 1 to {iterations} once, as the checkpoint wants; "
                "put the file back as it was."
            )
        lines = "".join(json.dumps(metrics, allow_nan=False) + "\n" for metrics in kept)
        try:
            write_atomically(self.metrics, lines.encode())
        except OSError as error:
            raise unwritable(self.metrics, error) from error
        return kept

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out of the folder; the system lifts the lock when the process ends, however it ends.

        Raises:
            RunFolderError: a run is at work in it, or nothing can be written into it.
        """
        try:
            file = lock(self.lock_file)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                raise unwritable(self.path, error) from error
            yield  # a file system without locks: nobody can be kept out
            return
        if file is None:
            owner = self.lock_file.read_text(encoding="utf-8", errors="replace").strip()
            raise RunFolderError(f"{self.path} is being written by {owner or 'another run'}; wait for it or end it.")
        with file:
            try:
                os.write(file.fileno(), f"process {os.getpid()} on {platform.node()}".encode())
            except OSError as error:
                raise unwritable(self.path, error) from error
            yield

    def remove_leftovers(self) -> None:
        """Remove what a run that was killed had begun to write."""
        for path in self.path.rglob(".*.tmp"):
            path.unlink()
        shutil.rmtree(self.model.with_name(f".{self.model.name}.partial"), ignore_errors=True)

    def check_abandoned(self, name: str) -> None:
        """Look at whether a run called `name` that left neither a checkpoint nor a model is all there is in the folder.

        Raises:
            RunFolderError: no run has begun in it, or there is something else.
        """
        written = (self.config, self.metrics, self.curve, self.before_after, self.report)
        folders = (self.samples, self.checkpoints, self.path / name)  # a tracker's is called as the run
        own = {self.lock_file, *written, *folders}
        paths = [path for path in self.path.iterdir() if path not in own and path.suffix not in (".partial", ".tmp")]
        others = sorted(path.name for path in paths)
        if others or not self.lock_file.is_file():
            what = f"other files than those of a run ({', '.join(others)})" if others else "no run that had begun"
            raise RunFolderError(f"output: {self.path} holds {what} and is never overwritten; give another folder.")

    def clear(self, name: str) -> None:
        """Remove everything but the lock, after `check_abandoned`."""
        self.check_abandoned(name)
        for path in self.path.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path != self.lock_file:
                path.unlink()

    def read_metrics(self) -> list[dict[str, float]]:
        """Return the metrics of all iterations so far; a last line that is still being written does not count.

        Raises:
            RunFolderError: a line is not a JSON object.
        """
        if not self.metrics.is_file():
            return []
        text = self.metrics.read_text(encoding="utf-8", errors="replace")
        whole = text[: text.rfind("\n") + 1]
        return [self._metrics_of(number, line) for number, line in enumerate(whole.splitlines(), 1) if line.strip()]

    def _metrics_of(self, number: int, line: str) -> dict[str, float]:
        try:
            metrics = json.loads(line)
        except json.JSONDecodeError:
            metrics = None
        if not isinstance(metrics, dict):
            raise RunFolderError(
                f"{self.metrics}: line {number} is not a JSON object; remove the line to read the rest."
            )
        return metrics

    def read_config(self) -> dict[str, Any]:
        """Return the configuration as it stands in the file, also of a version that knew other keys.

        Raises:
            RunFolderError: it is not YAML that holds keys and values.
        """
        try:
            config = yaml.safe_load(self.config.read_text(encoding="utf-8", errors="replace"))
        except yaml.YAMLError as error:
            raise RunFolderError(f"{self.config} is not valid YAML: {' '.join(str(error).split())}") from None
        if not isinstance(config, dict):
            raise RunFolderError(f"{self.config} must hold keys and values, not a {type(config).__name__}.")
        return config

    def read_evaluations(self) -> tuple[list[EvaluationRecord], list[str]]:
        """Return the records of the fixed samples by iteration, and a sentence on each that cannot be read."""
        records, problems = [], []
        for path in sorted(self.samples.glob("iteration-*.json")):
            try:
                data = json.loads(path.read_text(encoding="utf-8", errors="replace"))
                records.append(EvaluationRecord.parse(data, self.samples))
            except (OSError, ValueError) as error:
                problems.append(f"{path.name} cannot be read and is left out: {error}.")
        return records, problems

    def read(self, name: str | None = None) -> RunRecord:
        """Return everything a report shows of the run, called `name` or else as its folder.

        Raises:
            RunFolderError: the configuration or the metrics cannot be read.
        """
        records, problems = self.read_evaluations()
        evaluations, left_out = comparable(records)
        return RunRecord(
            name or self.path.resolve().name,
            self.read_config(),
            self.config.read_text(encoding="utf-8", errors="replace"),
            self.read_metrics(),
            evaluations,
            [*problems, *left_out],
        )

    def write_sample_record(self, iteration: int, record: Mapping[str, Any]) -> None:
        """Write what was measured on the fixed samples, as in docs/metrics.md."""
        write_atomically(self.sample_files(iteration).record, json.dumps(record, indent=1, allow_nan=False).encode())


def unwritable(path: Path, error: Exception) -> RunFolderError:
    """Return what to raise where something in a run folder cannot be written."""
    reason = getattr(error, "strerror", None) or str(error)
    return RunFolderError(f"{path} cannot be written ({reason}); make room or give the right to write.")


def picture_file(folder: Path, prompt: str, seed: int) -> Path:
    """Return the file of a single picture that `ddpo sample` draws into a folder: named after its prompt and seed."""
    words = re.sub(r"\W+", "-", prompt).strip("-")
    return folder / f"{words}-{seed}.png"


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """Return as many last parts of each path as tell all of them apart; the same path twice is numbered."""
    parts = [path.resolve().parts for path in paths]
    deepest = max(len(each) for each in parts)
    names = ["/".join(each[-1:]) for each in parts]
    for depth in range(2, deepest + 1):
        if len(set(names)) == len(names):
            break
        names = ["/".join(each[-depth:]) for each in parts]
    seen = [names[: index + 1].count(name) for index, name in enumerate(names)]
    return [name if number == 1 else f"{name} ({number})" for name, number in zip(names, seen, strict=True)]


def _free(path: Path) -> Path:
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate
