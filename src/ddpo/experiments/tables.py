"""From run folders to the CSV files and the sheet of pictures that figures and pages are made of. Never imports torch.

runs.csv       one row per run and iteration, iteration 0 being the base model
prompts.csv    one row per run, evaluation and prompt
evaluation.csv one row per run, prompt set, reward and prompt: base model and trained model
pictures.csv   one row per picture of pictures.png, which holds them row by row
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ddpo.runs.folder import RunFolder, picture_file
from ddpo.runs.record import EvaluationRecord, Tiles
from ddpo.runtime.errors import ExperimentError
from ddpo.runtime.files import write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image

Row = dict[str, Any]
T = TypeVar("T")

PICTURE_SIZE = 128
"""Pictures larger than this many pixels are made smaller for the sheet."""
SHEET_COLUMNS = 12
"""Pictures in a row of the sheet."""


@dataclass(frozen=True)
class EvaluationSource:
    """A finished evaluation of a trained model on a prompt set."""

    label: str
    """Words for the prompt set."""
    file: Path
    """JSON written by `ddpo evaluate`."""


@dataclass(frozen=True)
class DrawingSource:
    """Pictures drawn of a prompt set by the base model and the trained one, at the same seed."""

    label: str
    """Words for the prompt set."""
    prompts: tuple[str, ...]
    base: Path
    """Folder of single pictures, written by `ddpo sample`, in the order of the prompts."""
    trained: Path


@dataclass(frozen=True)
class RunSource:
    """A finished run, as the tables need it."""

    folder: Path
    recipe: str
    variant: str
    seed: int
    evaluations: tuple[EvaluationSource, ...] = ()
    drawings: tuple[DrawingSource, ...] = ()

    @property
    def identity(self) -> Row:
        """The columns that say which run a row is of."""
        return {"recipe": self.recipe, "variant": self.variant, "seed": self.seed}

    def records(self) -> list[EvaluationRecord]:
        """Return the evaluations of the fixed samples, in order of their iterations.

        Raises:
            ExperimentError: there are none or one cannot be read.
        """
        samples = RunFolder(self.folder).samples
        try:
            records = [
                EvaluationRecord.parse(json.loads(file.read_text(encoding="utf-8")), samples)
                for file in sorted(samples.glob("iteration-*.json"))
            ]
        except (OSError, ValueError) as error:
            raise ExperimentError(f"{samples}: {error}; delete {self.folder} to train the run anew.") from None
        if not records:
            raise ExperimentError(f"{samples} holds no evaluation; delete {self.folder} to train the run anew.")
        return records


def run_rows(runs: Iterable[RunSource]) -> list[Row]:
    """Return a row per run and iteration: the training samples' mean and, where measured, the fixed samples'."""
    return [row for run in runs for row in _rows_of_run(run)]


def _rows_of_run(run: RunSource) -> list[Row]:
    records = {record.iteration: record for record in run.records()}
    label = _label(records[0])
    metrics = {int(entry["iteration"]): entry for entry in RunFolder(run.folder).read_metrics()}
    rows = []
    for iteration in sorted({*records, *metrics}):
        entry = metrics.get(iteration, {})
        row = {**run.identity, "label": label, "iteration": iteration, "queries": int(entry.get("reward_queries", 0))}
        row["reward_mean"], row["standard_error"] = entry.get("reward/mean"), entry.get("reward/standard_error")
        rows.append(row | (_measured(records[iteration]) if iteration in records else {}))
    return rows


def _measured(record: EvaluationRecord) -> Row:
    """Return the means of everything measured on the fixed samples; the trained reward is `evaluation_mean`."""
    means = {}
    for reward in record.rewards:
        score_B = record.scores(reward)
        assert score_B is not None, "the record names it"
        means["evaluation_mean" if reward == record.trained_reward else f"evaluation_{reward}"] = float(score_B.mean())
    others = {"evaluation_diversity": record.diversity, "evaluation_kl_to_base": record.kl_to_base}
    return means | {name: value for name, value in others.items() if value is not None}


def prompt_rows(runs: Iterable[RunSource]) -> list[Row]:
    """Return a row per run, evaluation and prompt: the mean of the trained reward over the prompt's fixed samples."""
    rows = []
    for run in runs:
        queries = queries_by_iteration(run)
        for record in run.records():
            at = {**run.identity, "label": _label(record)}
            at |= {"iteration": record.iteration, "queries": _queries_at(run, queries, record.iteration)}
            for prompt, scores in _trained_scores_by_prompt(record).items():
                rows.append({**at, "prompt": prompt, "samples": len(scores), "reward_mean": float(np.mean(scores))})
    return rows


def _trained_scores_by_prompt(record: EvaluationRecord) -> dict[str, list[float]]:
    scores: dict[str, list[float]] = {}
    for sample in record.samples:
        scores.setdefault(sample.prompt, []).append(sample.rewards[str(record.trained_reward)])
    return scores


def queries_by_iteration(run: RunSource) -> dict[int, int]:
    """Return the reward queries made up to each iteration."""
    metrics = RunFolder(run.folder).read_metrics()
    return {0: 0} | {int(entry["iteration"]): int(entry["reward_queries"]) for entry in metrics}


def _queries_at(run: RunSource, queries: Mapping[int, int], iteration: int) -> int:
    if iteration not in queries:
        raise ExperimentError(
            f"{run.folder} has fixed samples of iteration {iteration} but no metrics of it; delete the folder to train "
            "the run anew."
        )
    return queries[iteration]


def evaluation_rows(runs: Iterable[RunSource]) -> list[Row]:
    """Return a row per run, prompt set, reward and prompt: means over the prompt's seeds of both models' samples."""
    return [row for run in runs for source in run.evaluations for row in _rows_of_evaluation(run, source)]


def _rows_of_evaluation(run: RunSource, source: EvaluationSource) -> list[Row]:
    record = _read_evaluation(source.file)
    trained = run.records()[0].trained_reward
    by_prompt: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for sample in record["samples"]:
        by_prompt.setdefault((sample["reward"], sample["prompt"]), []).append(sample)
    return [
        {
            **run.identity,
            "prompt_set": source.label,
            "reward": reward,
            "label": record["rewards"][reward]["label"],
            "is_trained_reward": int(reward == trained),
            "prompt": prompt,
            "samples": len(samples),
            "base": float(np.mean([sample["base"] for sample in samples])),
            "trained": float(np.mean([sample["trained"] for sample in samples])),
        }
        for (reward, prompt), samples in by_prompt.items()
    ]


def _read_evaluation(file: Path) -> dict[str, Any]:
    """Return what `ddpo evaluate` wrote.

    Raises:
        ExperimentError: the file is not there or holds no evaluation.
    """
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExperimentError(f"{file} cannot be read ({error}); give the command again.") from None
    if not isinstance(record, dict) or not {"samples", "rewards"} <= record.keys():
        raise ExperimentError(f"{file} is not an evaluation of `ddpo evaluate`; delete it and give the command again.")
    return record


@dataclass(frozen=True)
class Picture:
    """One sample at one moment of a run."""

    row: Row
    """Its row of pictures.csv."""
    file: Path
    """The picture, or the sheet that it is on."""
    box: tuple[int, int, int, int] | None = None
    """Left, upper, right and lower edge on the sheet; None: the whole file."""


def pictures_of(runs: Iterable[RunSource], prompts: int, moments: int) -> list[Picture]:
    """Return the pictures of the first `prompts` fixed samples, spread over the list, at so many moments of each run.

    The base model and the end of the training are among the moments. Runs without pictures are left out.
    """
    return [picture for run in runs for picture in _pictures_of_run(run, prompts, moments)]


def _pictures_of_run(run: RunSource, prompts: int, moments: int) -> list[Picture]:
    records = [record for record in run.records() if record.tiles is not None]
    queries = queries_by_iteration(run)
    pictures = []
    for record in spread(records, moments):
        assert record.tiles is not None
        for index in spread(range(len(_distinct_prompts(record))), prompts):
            sample = record.samples[index]
            row = {
                **run.identity,
                "label": _label(record),
                "iteration": record.iteration,
                "queries": _queries_at(run, queries, record.iteration),
                "prompt": sample.prompt,
                "sample_seed": sample.seed,
                "reward": sample.rewards[str(record.trained_reward)],
            }
            pictures.append(Picture(row, record.tiles.path, _box(record.tiles, index)))
    return pictures


def _box(tiles: Tiles, index: int) -> tuple[int, int, int, int]:
    x, y = index % tiles.columns * tiles.width, index // tiles.columns * tiles.height
    return x, y, x + tiles.width, y + tiles.height


def drawings_of(runs: Iterable[RunSource]) -> list[Picture]:
    """Return the pictures drawn of prompt sets, the base model's before the trained one's."""
    return [
        picture
        for run in runs
        for iteration, queries, folder_of in ((0, 0, "base"), (*_end(run), "trained"))
        for drawing in run.drawings
        for picture in _drawn(run, drawing, getattr(drawing, folder_of), iteration, queries)
    ]


def _end(run: RunSource) -> tuple[int, int]:
    """Return the iterations and reward queries of a whole run."""
    return max(queries_by_iteration(run).items())


def _drawn(run: RunSource, drawing: DrawingSource, folder: Path, iteration: int, queries: int) -> list[Picture]:
    at = {**run.identity, "label": _label(run.records()[0]), "iteration": iteration, "queries": queries}
    return [
        Picture(
            {**at, "prompt": prompt, "sample_seed": 0, "reward": None, "prompt_set": drawing.label},
            picture_file(folder, prompt, 0),
        )
        for prompt in drawing.prompts
    ]


def _distinct_prompts(record: EvaluationRecord) -> dict[str, None]:
    """Return the prompts in order; the fixed samples go through all of them before one comes again."""
    return dict.fromkeys(sample.prompt for sample in record.samples)


def spread(values: Sequence[T], number: int) -> list[T]:
    """Return at most `number` of the values, evenly spread, the first and the last among them."""
    if len(values) <= number:
        return list(values)
    return [values[round(place)] for place in np.linspace(0, len(values) - 1, number)]


def write_pictures(folder: Path, pictures: Sequence[Picture]) -> None:
    """Write pictures.png, row by row, and pictures.csv, which says for each picture where it is and what it shows."""
    from PIL import Image

    tiles = [_tile(picture) for picture in pictures]
    width, height = tiles[0].size
    columns = min(SHEET_COLUMNS, len(tiles))
    sheet = Image.new("RGB", (columns * width, -(-len(tiles) // columns) * height))
    rows = []
    for number, (tile, picture) in enumerate(zip(tiles, pictures, strict=True)):
        x, y = number % columns * width, number // columns * height
        sheet.paste(tile, (x, y))
        rows.append({"x": x, "y": y, "width": width, "height": height, **picture.row})
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    write_atomically(folder / "pictures.png", buffer.getvalue())
    write_rows(folder / "pictures.csv", rows)


def _tile(picture: Picture) -> Image:
    from PIL import Image

    try:
        with Image.open(picture.file) as sheet:
            tile = sheet.convert("RGB").crop(picture.box)
    except OSError as error:
        raise ExperimentError(
            f"The picture {picture.file} cannot be read ({error}); delete its folder and give the command again."
        ) from None
    scale = PICTURE_SIZE / max(tile.size)
    if scale >= 1:
        return tile
    return tile.resize((round(tile.width * scale), round(tile.height * scale)), Image.Resampling.LANCZOS)


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write a CSV file with every column that any row has; what a row lacks stays empty.

    Raises:
        ExperimentError: there are no rows.
    """
    if not rows:
        raise ExperimentError(f"There is nothing to write into {path}.")
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({column: _written(row.get(column)) for column in columns} for row in rows)
    write_atomically(path, text.getvalue().encode())


def _written(value: Any) -> Any:
    """Return floats with eight significant digits: more than any of them means."""
    return f"{value:.8g}" if isinstance(value, float) else value


def _label(record: EvaluationRecord) -> str:
    """Return words with the unit for the trained reward."""
    trained = str(record.trained_reward)
    return record.labels.get(trained, trained)
