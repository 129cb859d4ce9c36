"""Pieces that figures share, and writing them so that the same tables give the same bytes."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
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
_POINT: dict[str, Any] = {"markersize": 5.5, "markeredgecolor": "white", "markeredgewidth": 0.7, "zorder": 3}
_BARS: dict[str, Any] = {"linewidth": 2.0, "elinewidth": 1.2, "capsize": 2.5}


@dataclass(frozen=True)
class Kind:
    """How the runs of one kind are drawn."""

    name: str
    color: str
    marker: str
    shift: float = 0.0
    """Share of the axis by which points stand aside, so that bars do not hide each other."""


def kinds(names: Sequence[str]) -> list[Kind]:
    """Give each name a place, and a colour and a marker of its own, as long as there are any."""
    middle = (len(names) - 1) / 2
    return [
        Kind(name, PALETTE[place % len(PALETTE)], MARKERS[place % len(MARKERS)], (place - middle) * 0.008)
        for place, name in enumerate(names)
    ]


def render(build: Callable[[], Figure], form: Format) -> bytes:
    """Build a figure in the common look and return it as a file; the same data give the same bytes."""
    import matplotlib as mpl

    with resources.as_file(resources.files("ddpo.experiments.figures") / "ddpo.mplstyle") as file:
        look = mpl.rc_params_from_file(file)
    # Browsers smooth the pictures in an SVG themselves; in a PNG it has to be done here.
    with mpl.rc_context({**look, "image.interpolation": "none" if form == "svg" else "lanczos"}):
        buffer = io.BytesIO()
        metadata: dict[str, Any] = {"Date": None, "Creator": None} if form == "svg" else {"Software": None}
        build().savefig(buffer, format=form, dpi=160, metadata=metadata)
    return buffer.getvalue()


def new_figure(height: float, width: float) -> Figure:
    """Return an empty figure, sizes in inches, that no window manager knows of."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw_points(axes: Axes, points: Sequence[Point], kind: Kind, *, rounds: bool = False) -> None:
    """Draw means over seeds with their 95 % intervals as bars, joined by a line, over reward queries or `rounds`.

    All points but the first stand aside by the kind's shift.
    """
    at_N = [float(point.iteration if rounds else point.queries) for point in points]
    means = [point.mean for point in points]
    axes.errorbar(
        [at + kind.shift * at_N[-1] * (place > 0) for place, at in enumerate(at_N)],
        [mean.mean for mean in means],
        yerr=[[mean.mean - mean.low for mean in means], [mean.high - mean.mean for mean in means]],
        color=kind.color,
        marker=kind.marker,
        label=kind.name,
        **_POINT,
        **_BARS,
    )


def legend_above(figure: Figure, axes: Axes) -> None:
    """Put one legend over all panels, with the entries of one of them."""
    handles, labels = axes.get_legend_handles_labels()
    handles = [getattr(handle, "lines", [handle])[0] for handle in handles]  # without the bars of the intervals
    figure.legend(handles, labels, loc="outside upper left", ncols=len(labels), columnspacing=1.8)


def note(figure: Figure, text: str) -> None:
    """Write small words below the panels, in lines that fit the figure."""
    characters = int(figure.get_figwidth() / 0.076)
    lines = [line for paragraph in text.splitlines() for line in textwrap.wrap(paragraph, characters)]
    figure.supxlabel("\n".join(lines), fontsize=8.5, color=FAINT, x=0.005, ha="left")
