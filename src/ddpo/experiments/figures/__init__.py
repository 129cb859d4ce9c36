"""The figures of a results folder, drawn from its CSV files alone. Never imports torch."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpo.experiments.definition import OF_PICTURES, Experiment, FigureKind
from ddpo.experiments.figures.charts import effectiveness, generalisation, overoptimisation, prompts, rounds
from ddpo.experiments.figures.pictures import before_after, progression
from ddpo.runtime.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FIGURES: dict[FigureKind, Callable[[Path], Figure]] = {
    "effectiveness": effectiveness,
    "progression": progression,
    "before-after": before_after,
    "prompts": prompts,
    "generalisation": generalisation,
    "overoptimisation": overoptimisation,
    "rounds": rounds,
}


def redraw(experiment: Experiment, folder: Path) -> dict[str, bytes]:
    """Return the figures of a results folder by file name: `figure.svg`, `figure.png`, and samples where it has them.

    The same tables give the same bytes with the same versions of matplotlib, NumPy and Pillow. Raises ExperimentError
    when a table is missing.
    """
    figures = {"figure": _FIGURES[experiment.figure]}
    if experiment.figure not in OF_PICTURES and (folder / "pictures.csv").is_file():
        figures["samples"] = before_after if experiment.figure == "generalisation" else progression
    return {
        f"{name}.{form}": _render(build, folder, form) for name, build in figures.items() for form in ("svg", "png")
    }


def draw(experiment: Experiment, folder: Path) -> None:
    """Draw the figures of a results folder into it; raises ExperimentError when a table is missing."""
    for name, content in redraw(experiment, folder).items():
        write_atomically(folder / name, content)


def _render(build: Callable[[Path], Figure], folder: Path, form: str) -> bytes:
    """Return a figure as a file; results of another budget than the experiment's are marked as such."""
    import matplotlib as mpl

    # Browsers smooth the pictures in an SVG themselves; in a PNG it has to be done here.
    smooth = {"image.interpolation": "none" if form == "svg" else "lanczos"}
    metadata: dict[str, Any] = {"Date": None, "Creator": None} if form == "svg" else {"Software": None}
    with resources.as_file(resources.files(__name__) / "ddpo.mplstyle") as look, mpl.rc_context(smooth, fname=look):
        figure, buffer = build(folder), io.BytesIO()
        budget = json.loads((folder / "about.json").read_text(encoding="utf-8"))["budget"]
        if budget != 1:
            mark = f"budget {budget:g} of the experiment's queries"
            figure.text(0.995, 0.995, mark, ha="right", va="top", fontsize=9, color="C3")
        figure.savefig(buffer, format=form, dpi=160, metadata=metadata)
    return buffer.getvalue()
