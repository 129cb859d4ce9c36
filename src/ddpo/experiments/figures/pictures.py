"""Figures made of samples: progressions (Figures 1, 4, 7) and before and after training (Figure 2)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ddpo.experiments.figures.charts import FAINT
from ddpo.experiments.results import TextRow, grouped, kind_title, read_rows
from ddpo.report.wording import MINUS, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Pixels = npt.NDArray[np.uint8]

SIDE, LEFT = 1.11, 1.75
"""Inches from one picture to the next, and for the names of the rows."""
ROW, TOP = 1.31, 0.42
"""Inches of a row with the words below its pictures, and of one with the names of the columns."""


@dataclass(frozen=True)
class Strip:
    """A row of pictures."""

    name: str
    detail: str
    """Smaller words below the name."""
    cells: list[tuple[Pixels, str]]
    """Pictures `(H, W, 3)`, and the words below each."""


def progression(folder: Path) -> Figure:
    """Draw a row a prompt and run: the same sample at each moment of the training. Paper Figure 1."""
    rows, sheet = _read(folder)
    blocks: dict[tuple[str, ...], list[Strip]] = {}
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


def _pixels(sheet: Pixels, row: TextRow) -> Pixels:
    x, y, width, height = (int(row[column]) for column in ("x", "y", "width", "height"))
    return sheet[y : y + height, x : x + width]


def _change(before: str, after: str) -> str:
    """Return the words for a reward before and after; none where it was not measured."""
    return f"{_short(before)} → {_short(after)}" if before and after else ""


def _short(reward: str) -> str:
    """Return three significant digits, trailing zeros among them."""
    value = float(reward)
    return number(value, 3) if abs(value) >= 100 or value == 0 else f"{value:#.3g}".replace("-", MINUS)


def _draw(blocks: Sequence[tuple[tuple[str, ...], list[Strip]]]) -> Figure:
    """Draw rows of pictures with the names of rows on the left and of columns above, as far as they fit."""
    from matplotlib.figure import Figure

    rows: list[tuple[str, ...] | Strip] = []
    for headings, strips in blocks:
        rows += [headings, *strips]
    heights = [ROW if isinstance(row, Strip) else TOP for row in rows]
    columns = max(len(headings) for headings, _ in blocks)
    # not constrained: with so many axes the last bits of their places, and so the bytes, differ from time to time
    figure = Figure(figsize=(LEFT + columns * SIDE, sum(heights)))
    grid = figure.subplots(
        *(len(rows), 1 + columns), squeeze=False, height_ratios=heights, width_ratios=[LEFT, *columns * [SIDE]],
        gridspec_kw={"left": 0.01, "right": 0.995, "top": 1, "bottom": 0, "hspace": 0, "wspace": 0.05},
    )  # fmt: skip
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[], anchor="N")
        axes.spines[:].set_visible(False)
    for (label, *places), row in zip(grid, rows, strict=True):
        if not isinstance(row, Strip):
            for axes, heading in zip(places, row, strict=False):
                words = textwrap.fill(heading, 14, max_lines=2, placeholder=" …")
                axes.text(0.5, 0.15, words, ha="center", fontsize=9.5)
            continue
        detail = "\n".join(textwrap.fill(line, 26) for line in row.detail.splitlines())
        label.text(0, 0.57, textwrap.fill(row.name, 20), va="bottom", fontweight="bold")
        label.text(0, 0.54, detail, va="top", fontsize=8.5, color=FAINT)
        for axes, (pixels, caption) in zip(places, row.cells, strict=False):
            axes.imshow(pixels)
            axes.set_xlabel(caption, fontsize=8)
    return figure
