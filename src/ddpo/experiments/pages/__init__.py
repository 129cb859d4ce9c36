"""The page of a results folder, README.md, written from its tables alone. Never imports torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ddpo.experiments.definition import Experiment, FigureKind
from ddpo.experiments.pages.curves import effectiveness, overoptimisation, prompts, rounds
from ddpo.experiments.pages.markdown import bullets
from ddpo.experiments.pages.samples import generalisation, pictures
from ddpo.experiments.results import About
from ddpo.report.wording import count, duration
from ddpo.runtime.files import write_atomically

_FINDINGS: dict[FigureKind, Callable[[Experiment, Path], str]] = {
    "progression": pictures,
    "before-after": pictures,
    "effectiveness": effectiveness,
    "prompts": prompts,
    "generalisation": generalisation,
    "overoptimisation": overoptimisation,
    "rounds": rounds,
}

_FILES = {
    "runs.csv": "one row per run and iteration; iteration 0 is the base model",
    "prompts.csv": "one row per run, evaluation and prompt",
    "evaluation.csv": "one row per run, prompt set, reward and prompt, with both models' means",
    "pictures.csv": "what each picture of pictures.png shows",
    "about.json": "how the results came about",
}


def write_page(experiment: Experiment, folder: Path) -> None:
    """Write README.md into a results folder.

    Raises:
        ExperimentError: the folder lacks a table.
    """
    write_atomically(folder / "README.md", page(experiment, folder).encode())


def page(experiment: Experiment, folder: Path) -> str:
    """Return the page of a results folder in Markdown."""
    about = About.read(folder)
    parts = [f"# {experiment.title}", *_restrictions(about), f"![{experiment.title}](figure.{_form(experiment)})"]
    if experiment.finding_of_paper:
        parts.append(f"**The paper finds:** {experiment.finding_of_paper.strip()}")
    parts += ["## What was found here", _FINDINGS[experiment.figure](experiment, folder)]
    if (folder / "samples.png").is_file():
        parts += ["## Samples", "![samples](samples.png)", pictures(experiment, folder)]
    parts += ["## How it was made", _origin(about, folder)]
    return "\n\n".join(parts) + "\n"


def _form(experiment: Experiment) -> str:
    """Return the file type that shows a figure best: pixels stay sharp in a PNG, lines in an SVG."""
    return "png" if experiment.figure in ("progression", "before-after") else "svg"


def _restrictions(about: About) -> list[str]:
    """Say first what makes the results less than the experiment's file asks for, or mixes settings."""
    sentences = []
    if about.budget != 1:
        sentences.append(
            f"**Budget {about.budget:g}:** every run had {about.budget:g} times the reward queries that the experiment "
            "asks for. The figure shows that shorter or longer training, not the whole experiment."
        )
    sentences += [str(note) for note in about.values["notes"]]
    return ["\n>\n".join(f"> {sentence}" for sentence in sentences)] if sentences else []


def _origin(about: About, folder: Path) -> str:
    values = about.values
    seeds = count(values["seeds"], "seed")
    lines = [
        f"Command: `{values['command']}`",
        f"Scale: {values['scale']}; {seeds}; {values['queries']} reward queries a run; budget {about.budget:g}",
        f"Written on {values['date']}",
    ]
    for origin in about.made_with:
        commit = f", commit {origin['commit']}" if origin["commit"] else ""
        machine = "".join(f", {name} {value}" for name, value in origin["machine"].items())
        lines.append(
            f"{count(origin['steps'], 'step')} in {duration(origin['seconds'])} of computing: ddpo {origin['version']}"
            f"{commit}{machine}"
        )
    files = [f"`{name}`: {what}" for name, what in _FILES.items() if (folder / name).is_file()]
    return f"{bullets(lines)}\n\nFiles:\n\n{bullets(files)}"
