"""Results of finished runs: tables, figures and page, put into the results folder when all are made.

Never imports torch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ddpo.experiments.definition import OF_PICTURES, Experiment
from ddpo.experiments.figures import draw
from ddpo.experiments.page import page
from ddpo.experiments.tables import (
    FinishedRun,
    drawn_prompts,
    evaluation_rows,
    fixed_samples,
    prompt_rows,
    run_rows,
    write_pictures,
    write_rows,
)
from ddpo.runtime.errors import ExperimentError
from ddpo.runtime.files import write_atomically


def publish(experiment: Experiment, runs: Sequence[FinishedRun], about: Mapping[str, Any], output: Path) -> Path:
    """Write the results of an experiment into `output`/NAME and return that folder.

    Everything is made beside it first and takes the place of former results as a whole: an error or a kill leaves
    those as they were, and none of their files is left among the new ones.
    Raises ExperimentError or OSError: a run folder lacks what is needed, or the folder holds something else.
    """
    folder, partial = output / experiment.name, output / f".{experiment.name}.partial"
    former = output / f".{experiment.name}.former"
    check_output(folder)
    for left in (partial, former):
        shutil.rmtree(left, ignore_errors=True)
    _write_tables(experiment, runs, {"budget": about["budget"]}, partial)
    write_atomically(partial / "about.json", json.dumps(about, indent=1).encode())
    draw(experiment, partial)
    write_atomically(partial / "README.md", page(experiment, partial).encode())
    if folder.is_dir():
        folder.rename(former)
    partial.rename(folder)
    shutil.rmtree(former, ignore_errors=True)
    return folder


def _write_tables(experiment: Experiment, runs: Sequence[FinishedRun], mark: Mapping[str, Any], folder: Path) -> None:
    """Write the CSV files and the sheet of pictures that the figure is made of; every row ends with the `mark`."""
    tables = {} if experiment.figure in OF_PICTURES else {"runs.csv": run_rows(runs)}
    if experiment.figure == "prompts":
        tables["prompts.csv"] = prompt_rows(runs)
    if experiment.figure == "generalisation":
        tables["evaluation.csv"] = evaluation_rows(runs)
    for name, rows in tables.items():
        write_rows(folder / name, [{**row, **mark} for row in rows])
    pictures = drawn_prompts(runs)
    if experiment.pictures is not None:
        first = [run for run in runs if run.seed == min(run.seed for run in runs)]
        pictures = fixed_samples(first, experiment.pictures.prompts, experiment.pictures.moments)
    if pictures:
        write_pictures(folder, [replace(picture, row={**picture.row, **mark}) for picture in pictures])


def check_output(folder: Path) -> None:
    """Raise ExperimentError when a folder for results holds something else than former results."""
    is_taken = folder.is_file() or (folder.is_dir() and any(folder.iterdir()))
    if is_taken and not (folder / "about.json").is_file():
        raise ExperimentError(f"{folder} holds something else than results and is left alone; give another --output.")
