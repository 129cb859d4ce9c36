"""From run folders to the files that figures and pages are made of. Never imports torch.

runs.csv       one row per run and iteration, iteration 0 being the base model
prompts.csv    one row per run, evaluation and prompt
evaluation.csv one row per run, prompt set, reward and prompt: base model and trained model
pictures.csv   one row per picture on the sheet pictures.png
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ddpo.report.grid import draw_tiles, tile_columns
from ddpo.runs.folder import RunFolder, picture_file
from ddpo.runs.record import EvaluationRecord
from ddpo.runtime.errors import ExperimentError
from ddpo.runtime.files import write_atomically

Row = dict[str, Any]
T = TypeVar("T")

PICTURE_SIZE = 128
"""Pictures larger than this many pixels are made smaller for the sheet."""


@dataclass(frozen=True)
class Drawing:
    """Pictures drawn of a prompt set by the base model and the trained one, at the same seed."""

    label: str
    """Words for the prompt set."""
    prompts: tuple[str, ...]
    base: Path
    """Folder of single pictures, written by `ddpo sample`."""
    trained: Path


@dataclass(frozen=True)
class FinishedRun:
    """A finished run, as the tables need it."""

    folder: Path
    recipe: str
    variant: str
    seed: int
    evaluations: tuple[tuple[str, Path], ...] = ()
    """Words for each prompt set, and the JSON that `ddpo evaluate` wrote."""
    drawings: tuple[Drawing, ...] = ()

    @property
    def identity(self) -> Row:
        """The columns that say which run a row is of."""
        return {"recipe": self.recipe, "variant": self.variant, "seed": self.seed}

    def row(self, record: EvaluationRecord) -> Row:
        """Return the columns that say which run and moment a row is of, and the words for the trained reward."""
        metrics = RunFolder(self.folder).read_metrics()
        queries = {0: 0} | {int(entry["iteration"]): int(entry["reward_queries"]) for entry in metrics}
        label = record.labels.get(str(record.trained_reward), str(record.trained_reward))
        at = {"label": label, "iteration": record.iteration, "queries": queries[record.iteration]}
        return self.identity | at

    def records(self) -> list[EvaluationRecord]:
        """Return the evaluations of the fixed samples by iteration; raises ExperimentError if one cannot be read."""
        records, problems = RunFolder(self.folder).read_evaluations()
        if problems or not records:
            why = " ".join(problems) or "There is no evaluation of the fixed samples."
            raise ExperimentError(f"{self.folder}: {why} Delete {self.folder} to train the run anew.")
        return records


def run_rows(runs: Iterable[FinishedRun]) -> list[Row]:
    """Return a row per run and iteration: the training samples' mean and, where measured, the fixed samples'."""
    rows = []
    for run in runs:
        records = {record.iteration: record for record in run.records()}
        metrics = {int(entry["iteration"]): entry for entry in RunFolder(run.folder).read_metrics()}
        of_run = run.row(next(iter(records.values())))
        for iteration in sorted({*records, *metrics}):
            entry = metrics.get(iteration, {})
            at = {"iteration": iteration, "queries": int(entry.get("reward_queries", 0))}
            trained_on = {"reward_mean": entry.get("reward/mean"), "standard_error": entry.get("reward/standard_error")}
            measured = _measured(records[iteration]) if iteration in records else {}
            rows.append(of_run | at | trained_on | measured)
    return rows


def _measured(record: EvaluationRecord) -> Row:
    """Return the means of everything measured on the fixed samples; the trained reward is `evaluation_mean`."""
    means: Row = {}
    for reward in record.rewards:
        name = "evaluation_mean" if reward == record.trained_reward else f"evaluation_{reward}"
        means[name] = _mean(sample.rewards[reward] for sample in record.samples)
    others = {"evaluation_diversity": record.diversity, "evaluation_kl_to_base": record.kl_to_base}
    return means | {name: value for name, value in others.items() if value is not None}


def prompt_rows(runs: Iterable[FinishedRun]) -> list[Row]:
    """Return a row per run, evaluation and prompt: the mean of the trained reward over the prompt's fixed samples."""
    rows = []
    for run in runs:
        for record in run.records():
            scores: dict[str, list[float]] = {}
            for sample in record.samples:
                scores.setdefault(sample.prompt, []).append(sample.rewards[str(record.trained_reward)])
            at = run.row(record)
            for prompt, of_prompt in scores.items():
                rows.append(at | {"prompt": prompt, "samples": len(of_prompt), "reward_mean": _mean(of_prompt)})
    return rows


def evaluation_rows(runs: Iterable[FinishedRun]) -> list[Row]:
    """Return a row per run, prompt set, reward and prompt: means over the prompt's seeds of both models' samples."""
    rows = []
    for run in runs:
        trained_reward = run.records()[0].trained_reward
        for prompt_set, file in run.evaluations:
            try:
                record = json.loads(file.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ExperimentError(f"{file} is damaged ({error}); delete it and give the command again.") from None
            by_prompt: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
            for sample in record["samples"]:
                by_prompt.setdefault((sample["reward"], sample["prompt"]), []).append(sample)
            for (reward, prompt), samples in by_prompt.items():
                label, is_trained = record["rewards"][reward]["label"], int(reward == trained_reward)
                measured = {"prompt_set": prompt_set, "reward": reward, "label": label, "is_trained_reward": is_trained}
                means = {model: _mean(sample[model] for sample in samples) for model in ("base", "trained")}
                rows.append(run.identity | measured | {"prompt": prompt, "samples": len(samples)} | means)
    return rows


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write a CSV file with every column that any row has; what a row lacks stays empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(column for row in rows for column in row)), lineterminator="\n")
    writer.writeheader()
    for row in rows:  # eight significant digits are more than any number means
        writer.writerow({name: f"{value:.8g}" if isinstance(value, float) else value for name, value in row.items()})
    write_atomically(path, text.getvalue().encode())


@dataclass(frozen=True)
class Picture:
    """One sample at one moment of a run."""

    row: Row
    """Its row of pictures.csv."""
    file: Path
    """The picture, or the sheet that it is on."""
    box: tuple[int, int, int, int] | None = None
    """Left, upper, right and lower edge on the sheet; None: the whole file."""


def fixed_samples(runs: Iterable[FinishedRun], prompts: int, moments: int) -> list[Picture]:
    """Return the pictures of so many fixed samples, spread over the prompts, at so many moments of each run.

    The base model and the end of the training are among the moments. Runs without pictures are left out.
    """
    pictures = []
    for run in runs:
        drawn = [(record, record.tiles) for record in run.records() if record.tiles is not None]
        for record, tiles in spread(drawn, moments):
            # The fixed samples go through all prompts before one comes again.
            for index in spread(range(len({sample.prompt for sample in record.samples})), prompts):
                sample = record.samples[index]
                reward = sample.rewards[str(record.trained_reward)]
                row = {"prompt": sample.prompt, "sample_seed": sample.seed, "reward": reward}
                x, y = index % tiles.columns * tiles.width, index // tiles.columns * tiles.height
                pictures.append(Picture(run.row(record) | row, tiles.path, (x, y, x + tiles.width, y + tiles.height)))
    return pictures


def drawn_prompts(runs: Iterable[FinishedRun]) -> list[Picture]:
    """Return the pictures drawn of prompt sets, the base model's before the trained one's."""
    pictures = []
    for run in (run for run in runs if run.drawings):
        records = run.records()
        for record, model in ((records[0], "base"), (records[-1], "trained")):
            for drawing in run.drawings:
                for prompt in drawing.prompts:
                    row = {"prompt": prompt, "sample_seed": 0, "reward": None, "prompt_set": drawing.label}
                    pictures.append(Picture(run.row(record) | row, picture_file(getattr(drawing, model), prompt, 0)))
    return pictures


def spread(values: Sequence[T], number: int) -> list[T]:
    """Return at most `number` of the values, evenly spread, the first and the last among them."""
    return [values[round(place)] for place in np.linspace(0, len(values) - 1, min(number, len(values)))]


def write_pictures(folder: Path, pictures: Sequence[Picture]) -> None:
    """Write pictures.png, row by row, and pictures.csv, which says for each picture where it is and what it shows."""
    from PIL import Image

    tiles = []
    for picture in pictures:
        with Image.open(picture.file) as sheet:
            tile = sheet.convert("RGB").crop(picture.box)
        tile.thumbnail((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.LANCZOS)
        tiles.append(np.asarray(tile))
    draw_tiles(np.stack(tiles), folder / "pictures.png")
    height, width = tiles[0].shape[:2]
    columns = tile_columns(len(tiles))
    places = [{"x": index % columns * width, "y": index // columns * height} for index in range(len(tiles))]
    size = {"width": width, "height": height}
    write_rows(folder / "pictures.csv", [at | size | each.row for at, each in zip(places, pictures, strict=True)])
