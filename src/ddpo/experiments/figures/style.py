"""The common look of the figures, and writing them so that the same tables give the same bytes."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ddpo.experiments.results import Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Format = Literal["svg", "png"]

BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9"
"""Okabe and Ito's colours, which colour-blind readers tell apart too."""
PALETTE = (BLUE, GREEN, ORANGE, VERMILION, PURPLE, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P")
INK = "#262626"
FAINT = "#8c8c8c"
WIDTH = 10.0
"""Inches."""

_LOOK = {
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9.0,
    "axes.labelsize": 10.0,
    "axes.edgecolor": "#4d4d4d",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": "#4d4d4d",
    "ytick.color": "#4d4d4d",
    "legend.frameon": False,
    "legend.fontsize": 10.0,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    # Without these two the identifiers in an SVG are random and every drawing differs.
    "svg.hashsalt": "ddpo",
    "svg.fonttype": "path",
}


@dataclass(frozen=True)
class Kind:
    """How the runs of one kind are drawn."""

    name: str
    color: str
    marker: str


def shifts(number: int, reach: float) -> list[float]:
    """Return shifts around 0 for `number` kinds drawn side by side over an axis of length `reach`."""
    return [(index - (number - 1) / 2) * 0.008 * reach for index in range(number)]


def kinds(names: Sequence[str]) -> list[Kind]:
    """Give each name a colour and a marker of its own, as long as there are any."""
    return [
        Kind(name, PALETTE[index % len(PALETTE)], MARKERS[index % len(MARKERS)]) for index, name in enumerate(names)
    ]


def render(build: Callable[[], Figure], form: Format) -> bytes:
    """Build a figure in the common look and return it as a file; the same data give the same bytes."""
    import matplotlib as mpl

    # Browsers smooth the pictures in an SVG themselves; in a PNG it has to be done here.
    pictures = {"image.interpolation": "none" if form == "svg" else "lanczos", "image.composite_image": False}
    with mpl.rc_context({**mpl.rcParamsDefault, **_LOOK, **pictures}):
        figure = build()
        buffer = io.BytesIO()
        metadata: dict[str, Any] = {"Date": None, "Creator": None} if form == "svg" else {"Software": None}
        figure.savefig(buffer, format=form, dpi=160, metadata=metadata)
    return buffer.getvalue()


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """Return an empty figure, sizes in inches, that no window manager knows of."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw_points(
    axes: Axes, points: Sequence[Point], kind: Kind, *, x: Sequence[float] | None = None, shift: float = 0.0
) -> None:
    """Draw means over seeds with their 95 % intervals as bars, joined by a line.

    `x` is reward queries unless given; `shift` moves all points but the first, so that bars do not hide each other.
    """
    at_N = [float(point.queries) for point in points] if x is None else list(x)
    x_N = [place + shift * (index > 0) for index, place in enumerate(at_N)]
    means = [point.mean for point in points]
    mean_N = [mean.mean for mean in means]
    reach = [[mean.mean - mean.low for mean in means], [mean.high - mean.mean for mean in means]]
    axes.errorbar(
        x_N,
        mean_N,
        yerr=reach,
        color=kind.color,
        marker=kind.marker,
        markersize=5.5,
        markeredgecolor="white",
        markeredgewidth=0.7,
        linewidth=2.0,
        elinewidth=1.2,
        capsize=2.5,
        label=kind.name,
        zorder=3,
    )


def queries_axis(axes: Axes) -> None:
    """Label the horizontal axis as reward queries, with separated thousands."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("reward queries")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def legend_above(figure: Figure, axes: Axes, columns: int | None = None) -> None:
    """Put one legend over all panels, with the entries of one of them."""
    handles, labels = axes.get_legend_handles_labels()
    handles = [getattr(handle, "lines", [handle])[0] for handle in handles]  # without the bars of the intervals
    figure.legend(handles, labels, loc="outside upper left", ncols=columns or len(labels), columnspacing=1.8)


def note(figure: Figure, text: str) -> None:
    """Write small words below the panels, in lines that fit the figure."""
    characters = int(figure.get_figwidth() / 0.076)
    lines = [line for paragraph in text.splitlines() for line in textwrap.wrap(paragraph, characters)]
    figure.supxlabel("\n".join(lines), fontsize=8.5, color=FAINT, x=0.005, ha="left")
