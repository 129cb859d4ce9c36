"""Figures made of samples: progressions (Figures 1, 4, 7) and before and after training (Figure 2)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ddpo.experiments.figures.curves import panel_title
from ddpo.experiments.figures.style import FAINT, INK, new_figure
from ddpo.experiments.results import TextRow, distinct, read_rows
from ddpo.report.curve import MINUS
from ddpo.report.wording import number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL = 1.05
"""Inches of a picture's side."""
CAPTION = 0.2
"""Inches below a picture for its reward."""
LEFT = 1.75
"""Inches for the names of the rows."""
TOP = 0.42
"""Inches for the names of the columns."""


@dataclass(frozen=True)
class Cell:
    """One picture with the words below it."""

    pixels: npt.NDArray[np.uint8]
    """`(H, W, 3)`."""
    caption: str


@dataclass(frozen=True)
class Strip:
    """A row of pictures."""

    name: str
    detail: str
    """Smaller words below the name."""
    cells: list[Cell]


def progression(folder: Path) -> Figure:
    """Draw a row a prompt and run: the same sample at each moment of the training. Paper Figure 1."""
    rows, sheet = _read(folder)
    strips = [
        Strip(_row_name(rows, part), f"“{part[0]['prompt']}”\n{part[0]['label']}", [_cell(sheet, row) for row in part])
        for part in _grouped(rows, ("recipe", "variant", "prompt"))
    ]
    moments = max((_grouped(rows, ("recipe", "variant", "prompt"))), key=len)
    columns = ["base model" if row["iteration"] == "0" else f"{int(row['queries']):,}" for row in moments]
    if len(columns) > 1:
        columns[1] += " queries"
    return _draw(strips, columns)


def before_after(folder: Path) -> Figure:
    """Draw samples of the base model and the same prompts and seeds trained on each reward. Paper Figure 2."""
    rows, sheet = _read(folder)
    parts = _grouped(rows, ("recipe", "variant"))
    base = [row for row in parts[0] if row["iteration"] == "0"]
    strips = [Strip("base model", "", [Cell(_pixels(sheet, row), "") for row in base])]
    for part in parts:
        last = max(int(row["iteration"]) for row in part)
        trained = [row for row in part if int(row["iteration"]) == last]
        before = {(row["prompt"], row["sample_seed"]): row["reward"] for row in part if row["iteration"] == "0"}
        cells = [
            Cell(_pixels(sheet, row), _change(before[row["prompt"], row["sample_seed"]], row["reward"]))
            for row in trained
        ]
        strips.append(Strip(panel_title(part[0]["recipe"]), part[0]["label"], cells))
    return _draw(strips, [row["prompt"] for row in base])


def _read(folder: Path) -> tuple[list[TextRow], npt.NDArray[np.uint8]]:
    from PIL import Image

    with Image.open(folder / "pictures.png") as sheet:
        return read_rows(folder / "pictures.csv"), np.asarray(sheet.convert("RGB"))


def _grouped(rows: Sequence[TextRow], columns: Sequence[str]) -> list[list[TextRow]]:
    """Return the rows that agree in the columns, groups in order of appearance."""
    groups: dict[tuple[str, ...], list[TextRow]] = {}
    for row in rows:
        groups.setdefault(tuple(row[column] for column in columns), []).append(row)
    return list(groups.values())


def _row_name(rows: Sequence[TextRow], part: Sequence[TextRow]) -> str:
    """Return what tells a row of pictures from the others: its recipe, its variant or both."""
    names = [
        name
        for column, name in (("recipe", panel_title(part[0]["recipe"])), ("variant", part[0]["variant"]))
        if len(distinct(row[column] for row in rows)) > 1
    ]
    return ", ".join(names) or panel_title(part[0]["recipe"])


def _cell(sheet: npt.NDArray[np.uint8], row: TextRow) -> Cell:
    return Cell(_pixels(sheet, row), _short(row["reward"]))


def _change(before: str, after: str) -> str:
    """Return the words for a reward before and after; none where it was not measured."""
    return f"{_short(before)} → {_short(after)}" if before and after else ""


def _pixels(sheet: npt.NDArray[np.uint8], row: TextRow) -> npt.NDArray[np.uint8]:
    x, y, width, height = (int(row[column]) for column in ("x", "y", "width", "height"))
    return sheet[y : y + height, x : x + width]


def _short(reward: str) -> str:
    """Return three significant digits, trailing zeros among them."""
    value = float(reward)
    return number(value, 3) if abs(value) >= 100 or value == 0 else f"{value:#.3g}".replace("-", MINUS)


def _draw(strips: Sequence[Strip], columns: Sequence[str]) -> Figure:
    """Draw rows of pictures with the names of rows on the left and of columns above."""
    gap = 0.06
    height = TOP + len(strips) * (CELL + CAPTION + gap)
    width = LEFT + len(columns) * (CELL + gap)
    figure = new_figure(height, width)
    figure.set_layout_engine("none")
    for row, strip in enumerate(strips):
        top = height - TOP - row * (CELL + CAPTION + gap)
        _name(figure, strip, (top - CELL / 2) / height)
        for column, cell in enumerate(strip.cells):
            left = LEFT + column * (CELL + gap)
            axes = figure.add_axes((left / width, (top - CELL) / height, CELL / width, CELL / height))
            axes.imshow(cell.pixels)
            axes.set_axis_off()
            middle = (left + CELL / 2) / width
            figure.text(
                middle, (top - CELL - 0.03) / height, cell.caption, ha="center", va="top", fontsize=8, color=INK
            )
            if row == 0:
                figure.text(middle, (top + 0.08) / height, columns[column], ha="center", va="bottom", fontsize=9.5)
    return figure


def _name(figure: Figure, strip: Strip, middle: float) -> None:
    name = textwrap.fill(strip.name, 20)
    figure.text(0.01, middle, name, ha="left", va="bottom", fontsize=10.5, fontweight="bold")
    detail = "\n".join(textwrap.fill(line, 26) for line in strip.detail.splitlines())
    figure.text(0.01, middle - 0.01, detail, ha="left", va="top", fontsize=8.5, color=FAINT)
