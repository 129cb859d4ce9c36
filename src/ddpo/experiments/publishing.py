"""Results of finished runs: tables, figures and page, put into the results folder when all are made.

Never imports torch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ddpo.experiments.definition import Experiment, FigureKind
from ddpo.experiments.figures import draw
from ddpo.experiments.pages import write_page
from ddpo.experiments.tables import (
    Picture,
    Row,
    RunSource,
    drawings_of,
    evaluation_rows,
    pictures_of,
    prompt_rows,
    run_rows,
    write_pictures,
    write_rows,
)
from ddpo.runtime.errors import ExperimentError
from ddpo.runtime.files import write_atomically

_TABLES: dict[FigureKind, dict[str, Callable[[Sequence[RunSource]], list[Row]]]] = {
    "progression": {},
    "before-after": {},
    "effectiveness": {"runs.csv": run_rows},
    "rounds": {"runs.csv": run_rows},
    "overoptimisation": {"runs.csv": run_rows},
    "prompts": {"runs.csv": run_rows, "prompts.csv": prompt_rows},
    "generalisation": {"runs.csv": run_rows, "evaluation.csv": evaluation_rows},
}


def publish(experiment: Experiment, runs: Sequence[RunSource], about: Mapping[str, Any], output: Path) -> Path:
    """Write the results of an experiment into `output`/NAME and return that folder.

    Everything is made beside it first and takes the place of former results as a whole: an error or a kill leaves
    those as they were, and none of their files is left among the new ones.

    Raises:
        ExperimentError: a run folder lacks what is needed, or the folder holds something else than results.
    """
    folder, partial = output / experiment.name, output / f".{experiment.name}.partial"
    check_output(folder)
    shutil.rmtree(partial, ignore_errors=True)
    mark = {"budget": about["budget"]}
    for name, rows_of in _TABLES[experiment.figure].items():
        write_rows(partial / name, [row | mark for row in rows_of(runs)])
    pictures = _pictures(experiment, runs)
    if pictures:
        write_pictures(partial, [replace(picture, row=picture.row | mark) for picture in pictures])
    write_atomically(partial / "about.json", json.dumps(about, indent=1).encode())
    draw(experiment, partial)
    write_page(experiment, partial)
    _swap(partial, folder)
    return folder


def check_output(folder: Path) -> None:
    """Look whether results may be written into a folder: it is to hold nothing but former results.

    Raises:
        ExperimentError: it holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise ExperimentError(f"{folder} is a file; give another --output.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "about.json").is_file():
        raise ExperimentError(f"{folder} holds something else than results and is left alone; give another --output.")


def _swap(new: Path, folder: Path) -> None:
    """Put a folder in the place of another, by renaming: what is in `folder` is never half of both."""
    former = folder.with_name(f".{folder.name}.former")
    shutil.rmtree(former, ignore_errors=True)
    if folder.is_dir():
        folder.rename(former)
    new.rename(folder)
    shutil.rmtree(former, ignore_errors=True)


def _pictures(experiment: Experiment, runs: Sequence[RunSource]) -> list[Picture]:
    """Return the pictures to show: those drawn of prompt sets, or fixed samples of the first seed."""
    if experiment.pictures is None:
        return drawings_of(runs)
    first = [run for run in runs if run.seed == min(run.seed for run in runs)]
    return pictures_of(first, experiment.pictures.prompts, experiment.pictures.moments)
