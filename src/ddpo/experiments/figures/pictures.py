"""Figures made of samples: progressions (Figures 1, 4, 7) and before and after training (Figure 2)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ddpo.experiments.figures.style import FAINT, INK, new_figure
from ddpo.experiments.results import TextRow, grouped, kind_title, read_rows
from ddpo.report.wording import MINUS
from ddpo.report.wording import number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Pixels = npt.NDArray[np.uint8]

CELL, GAP, CAPTION = 1.05, 0.06, 0.2
"""Inches of a picture's side, between pictures, and below a picture for its reward."""
ROW = CELL + CAPTION + GAP
"""Inches from one row of pictures to the next."""
LEFT, TOP = 1.75, 0.42
"""Inches for the names of the rows and of the columns."""
HEADING = 14
"""Characters in a line of a column's name, which has two lines."""


@dataclass(frozen=True)
class Strip:
    """A row of pictures."""

    name: str
    detail: str
    """Smaller words below the name."""
    cells: list[tuple[Pixels, str]]
    """Pictures `(H, W, 3)`, and the words below each."""


Blocks = dict[tuple[str, ...], list[Strip]]
"""Rows of pictures that share the headings of their columns, by these."""


def progression(folder: Path) -> Figure:
    """Draw a row a prompt and run: the same sample at each moment of the training. Paper Figure 1."""
    rows, sheet = _read(folder)
    blocks: Blocks = {}
    for part in grouped(rows, "recipe", "variant", "prompt"):
        headings = ["base model" if row["iteration"] == "0" else f"{int(row['queries']):,}" for row in part]
        headings[1:2] = [f"{heading} queries" for heading in headings[1:2]]
        cells = [(_pixels(sheet, row), _short(row["reward"])) for row in part]
        strip = Strip(kind_title(rows, part[0]), f"“{part[0]['prompt']}”\n{part[0]['label']}", cells)
        blocks.setdefault(tuple(headings), []).append(strip)
    return _draw(list(blocks.items()))


def before_after(folder: Path) -> Figure:
    """Draw samples of the base model and the same prompts and seeds trained on each reward. Paper Figure 2.

    Runs of other prompts or seeds have a base row and headings of their own.
    """
    rows, sheet = _read(folder)
    blocks: dict[tuple[tuple[str, str], ...], list[Strip]] = {}
    for part in grouped(rows, "recipe", "variant"):
        last = max(part, key=lambda row: int(row["iteration"]))["iteration"]
        base, trained = (
            {(row["prompt"], row["sample_seed"]): row for row in part if row["iteration"] == at} for at in ("0", last)
        )
        untrained = Strip("base model", "", [(_pixels(sheet, row), "") for row in base.values()])
        pairs = [(row, trained[sample]) for sample, row in base.items()]
        cells = [(_pixels(sheet, after), _change(before["reward"], after["reward"])) for before, after in pairs]
        strip = Strip(kind_title(rows, part[0]), part[0]["label"], cells)
        blocks.setdefault(tuple(base), [untrained]).append(strip)
    return _draw([(tuple(prompt for prompt, _ in samples), strips) for samples, strips in blocks.items()])


def _read(folder: Path) -> tuple[list[TextRow], Pixels]:
    from PIL import Image

    with Image.open(folder / "pictures.png") as sheet:
        return read_rows(folder / "pictures.csv"), np.asarray(sheet.convert("RGB"))


def _change(before: str, after: str) -> str:
    """Return the words for a reward before and after; none where it was not measured."""
    return f"{_short(before)} → {_short(after)}" if before and after else ""


def _pixels(sheet: Pixels, row: TextRow) -> Pixels:
    x, y, width, height = (int(row[column]) for column in ("x", "y", "width", "height"))
    return sheet[y : y + height, x : x + width]


def _short(reward: str) -> str:
    """Return three significant digits, trailing zeros among them."""
    value = float(reward)
    return number(value, 3) if abs(value) >= 100 or value == 0 else f"{value:#.3g}".replace("-", MINUS)


def _draw(blocks: Sequence[tuple[tuple[str, ...], list[Strip]]]) -> Figure:
    """Draw rows of pictures with the names of rows on the left and of columns above."""
    height = sum(TOP + len(strips) * ROW for _, strips in blocks)
    figure = new_figure(height, LEFT + max(len(headings) for headings, _ in blocks) * (CELL + GAP))
    figure.set_layout_engine("none")
    top = height
    for headings, strips in blocks:
        for column, heading in enumerate(headings):
            words = textwrap.fill(heading, HEADING, max_lines=2, placeholder=" …")
            _write(figure, words, column, top - TOP + 0.08, va="bottom", fontsize=9.5)
        for row, strip in enumerate(strips):
            _draw_strip(figure, strip, top - TOP - row * ROW)
        top -= TOP + len(strips) * ROW
    return figure


def _draw_strip(figure: Figure, strip: Strip, top: float) -> None:
    """Draw one row of pictures; `top` is its upper edge in inches from below."""
    width, height = figure.get_size_inches()
    middle = (top - CELL / 2) / height
    name, detail = textwrap.fill(strip.name, 20), [textwrap.fill(line, 26) for line in strip.detail.splitlines()]
    figure.text(0.01, middle, name, ha="left", va="bottom", fontsize=10.5, fontweight="bold")
    figure.text(0.01, middle - 0.01, "\n".join(detail), ha="left", va="top", fontsize=8.5, color=FAINT)
    for column, (pixels, caption) in enumerate(strip.cells):
        left = LEFT + column * (CELL + GAP)
        axes = figure.add_axes((left / width, (top - CELL) / height, CELL / width, CELL / height))
        axes.imshow(pixels)
        axes.set_axis_off()
        _write(figure, caption, column, top - CELL - 0.03, va="top", fontsize=8, color=INK)


def _write(figure: Figure, text: str, column: int, y: float, **look: Any) -> None:
    """Write words in the middle of a column, `y` inches from below."""
    width, height = figure.get_size_inches()
    figure.text((LEFT + column * (CELL + GAP) + CELL / 2) / width, y / height, text, ha="center", **look)
