"""From run folders to the CSV files that figures and pages are made of. Never imports torch.

runs.csv       one row per run and iteration, iteration 0 being the base model
prompts.csv    one row per run, evaluation and prompt
evaluation.csv one row per run, prompt set, reward and prompt: base model and trained model
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ddpo.runs.folder import RunFolder
from ddpo.runs.record import EvaluationRecord
from ddpo.runtime.errors import ExperimentError
from ddpo.runtime.files import write_atomically

Row = dict[str, Any]


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

    def row(self, record: EvaluationRecord) -> Row:
        """Return the columns that say which run and moment a row is of, and the words for the trained reward."""
        metrics = RunFolder(self.folder).read_metrics()
        queries = {0: 0} | {int(entry["iteration"]): int(entry["reward_queries"]) for entry in metrics}
        at = {"iteration": record.iteration, "queries": queries[record.iteration]}
        return self.identity | {"label": _label(record)} | at

    @property
    def identity(self) -> Row:
        """The columns that say which run a row is of."""
        return {"recipe": self.recipe, "variant": self.variant, "seed": self.seed}

    def records(self) -> list[EvaluationRecord]:
        """Return the evaluations of the fixed samples by iteration; raises ExperimentError if one cannot be read."""
        records, problems = RunFolder(self.folder).read_evaluations()
        if problems or not records:
            why = " ".join(problems) or "There is no evaluation of the fixed samples."
            raise ExperimentError(f"{self.folder}: {why} Delete {self.folder} to train the run anew.")
        return records


def _label(record: EvaluationRecord) -> str:
    """Return words with the unit for the trained reward."""
    return record.labels.get(str(record.trained_reward), str(record.trained_reward))


def run_rows(runs: Iterable[FinishedRun]) -> list[Row]:
    """Return a row per run and iteration: the training samples' mean and, where measured, the fixed samples'."""
    rows = []
    for run in runs:
        records = {record.iteration: record for record in run.records()}
        label = _label(next(iter(records.values())))
        metrics = {int(entry["iteration"]): entry for entry in RunFolder(run.folder).read_metrics()}
        for iteration in sorted({*records, *metrics}):
            entry = metrics.get(iteration, {})
            at = {"label": label, "iteration": iteration, "queries": int(entry.get("reward_queries", 0))}
            trained_on = {"reward_mean": entry.get("reward/mean"), "standard_error": entry.get("reward/standard_error")}
            measured = _measured(records[iteration]) if iteration in records else {}
            rows.append(run.identity | at | trained_on | measured)
    return rows


def _measured(record: EvaluationRecord) -> Row:
    """Return the means of everything measured on the fixed samples; the trained reward is `evaluation_mean`."""
    means: Row = {}
    for reward in record.rewards:
        score_B = record.scores(reward)
        assert score_B is not None, "the record names it"
        means["evaluation_mean" if reward == record.trained_reward else f"evaluation_{reward}"] = float(score_B.mean())
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
            for prompt, score_N in scores.items():
                mean = float(np.mean(score_N))
                rows.append(at | {"prompt": prompt, "samples": len(score_N), "reward_mean": mean})
    return rows


def evaluation_rows(runs: Iterable[FinishedRun]) -> list[Row]:
    """Return a row per run, prompt set, reward and prompt: means over the prompt's seeds of both models' samples."""
    return [row for run in runs for label, file in run.evaluations for row in _rows_of_evaluation(run, label, file)]


def _rows_of_evaluation(run: FinishedRun, label: str, file: Path) -> list[Row]:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ExperimentError(f"{file} is damaged ({error}); delete it and give the command again.") from None
    trained = run.records()[0].trained_reward
    by_prompt: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for sample in record["samples"]:
        by_prompt.setdefault((sample["reward"], sample["prompt"]), []).append(sample)
    return [
        {
            **run.identity,
            "prompt_set": label,
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


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write a CSV file with every column that any row has; what a row lacks stays empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(column for row in rows for column in row)), lineterminator="\n")
    writer.writeheader()
    for row in rows:  # eight significant digits are more than any number means
        writer.writerow({name: f"{value:.8g}" if isinstance(value, float) else value for name, value in row.items()})
    write_atomically(path, text.getvalue().encode())
