"""Figures made of samples: progressions (Figures 1, 4, 7) and before and after training (Figure 2)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
GAP = 0.06
"""Inches between pictures."""
ROW = CELL + CAPTION + GAP
"""Inches from one row of pictures to the next."""
HEADING = 14
"""Characters in a line of a column's name, which has two lines."""


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


@dataclass(frozen=True)
class Block:
    """Rows of pictures that share the headings of their columns."""

    columns: tuple[str, ...]
    strips: list[Strip]

    @property
    def height(self) -> float:
        """Inches."""
        return TOP + len(self.strips) * ROW


def progression(folder: Path) -> Figure:
    """Draw a row a prompt and run: the same sample at each moment of the training. Paper Figure 1."""
    rows, sheet = _read(folder)
    blocks: dict[tuple[str, ...], list[Strip]] = {}
    for part in _grouped(rows, ("recipe", "variant", "prompt")):
        strip = Strip(
            _row_name(rows, part), f"“{part[0]['prompt']}”\n{part[0]['label']}", [_cell(sheet, row) for row in part]
        )
        blocks.setdefault(_moments(part), []).append(strip)
    return _draw([Block(columns, strips) for columns, strips in blocks.items()])


def _moments(part: Sequence[TextRow]) -> tuple[str, ...]:
    """Return the names of the columns of one sample's pictures."""
    columns = ["base model" if row["iteration"] == "0" else f"{int(row['queries']):,}" for row in part]
    if len(columns) > 1:
        columns[1] += " queries"
    return tuple(columns)


def before_after(folder: Path) -> Figure:
    """Draw samples of the base model and the same prompts and seeds trained on each reward. Paper Figure 2.

    Runs of other prompts or seeds have a base row and headings of their own.
    """
    rows, sheet = _read(folder)
    blocks: dict[tuple[tuple[str, str], ...], Block] = {}
    for part in _grouped(rows, ("recipe", "variant")):
        base = {_sample(row): row for row in part if row["iteration"] == "0"}
        if tuple(base) not in blocks:
            untrained = [Cell(_pixels(sheet, row), "") for row in base.values()]
            headings = tuple(prompt for prompt, _ in base)
            blocks[tuple(base)] = Block(headings, [Strip("base model", "", untrained)])
        last = max(int(row["iteration"]) for row in part)
        trained = {_sample(row): row for row in part if int(row["iteration"]) == last}
        cells = [
            Cell(_pixels(sheet, trained[sample]), _change(row["reward"], trained[sample]["reward"]))
            for sample, row in base.items()
        ]
        blocks[tuple(base)].strips.append(Strip(_row_name(rows, part), part[0]["label"], cells))
    return _draw(list(blocks.values()))


def _sample(row: TextRow) -> tuple[str, str]:
    """Return what stays the same before and after training."""
    return row["prompt"], row["sample_seed"]


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


def _draw(blocks: Sequence[Block]) -> Figure:
    """Draw rows of pictures with the names of rows on the left and of columns above."""
    height = sum(block.height for block in blocks)
    figure = new_figure(height, LEFT + max(len(block.columns) for block in blocks) * (CELL + GAP))
    figure.set_layout_engine("none")
    top = height
    for block in blocks:
        for column, heading in enumerate(block.columns):
            words = textwrap.fill(heading, HEADING, max_lines=2, placeholder=" …")
            _write(figure, words, column, top - TOP + 0.08, va="bottom", fontsize=9.5)
        for row, strip in enumerate(block.strips):
            _draw_strip(figure, strip, top - TOP - row * ROW)
        top -= block.height
    return figure


def _draw_strip(figure: Figure, strip: Strip, top: float) -> None:
    """Draw one row of pictures; `top` is its upper edge in inches from below."""
    width, height = figure.get_size_inches()
    _name(figure, strip, (top - CELL / 2) / height)
    for column, cell in enumerate(strip.cells):
        left = LEFT + column * (CELL + GAP)
        axes = figure.add_axes((left / width, (top - CELL) / height, CELL / width, CELL / height))
        axes.imshow(cell.pixels)
        axes.set_axis_off()
        _write(figure, cell.caption, column, top - CELL - 0.03, va="top", fontsize=8, color=INK)


def _write(figure: Figure, text: str, column: int, y: float, **look: Any) -> None:
    """Write words in the middle of a column, `y` inches from below."""
    width, height = figure.get_size_inches()
    figure.text((LEFT + column * (CELL + GAP) + CELL / 2) / width, y / height, text, ha="center", **look)


def _name(figure: Figure, strip: Strip, middle: float) -> None:
    name = textwrap.fill(strip.name, 20)
    figure.text(0.01, middle, name, ha="left", va="bottom", fontsize=10.5, fontweight="bold")
    detail = "\n".join(textwrap.fill(line, 26) for line in strip.detail.splitlines())
    figure.text(0.01, middle - 0.01, detail, ha="left", va="top", fontsize=8.5, color=FAINT)
