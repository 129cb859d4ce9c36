"""The reward curve: mean reward against reward queries, as in Figure 3 of the paper."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ddpo.runtime.errors import RunFolderError
from ddpo.runtime.files import write_atomically

NORMAL_95 = 1.959964
"""Half the width of the 95 % interval of a normal distribution, in standard deviations."""

MINUS = "\N{MINUS SIGN}"

Floats = npt.NDArray[np.float64]


def draw_curve(
    metrics: Sequence[Mapping[str, Any]],
    path: str | Path,
    *,
    title: str = "",
    label: str = "reward",
    window: int | None = None,
) -> None:
    """Write a PNG of the mean reward against reward queries.

    Points are the means of the iterations (`reward/mean`); the line is their running mean over `window`
    iterations (default: a tenth of them; an even number counts as the next odd one) and the band its 95 %
    interval, from `reward/standard_error`. `label` is the reward's name with its unit.

    Raises RunFolderError when no iteration holds `reward_queries` and a finite `reward/mean`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    queries_N, mean_N, error_N = _series(metrics, path)
    width = 2 * ((len(mean_N) // 10 if window is None else window) // 2) + 1
    smooth_N, smooth_error_N = running_mean(mean_N, error_N, width)
    low_N, high_N = smooth_N - NORMAL_95 * smooth_error_N, smooth_N + NORMAL_95 * smooth_error_N

    figure = Figure(figsize=(7.5, 4.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    color = "#1f5fa8"
    line_label = "mean of the iteration" if width == 1 else f"running mean of {width} iterations"
    axes.fill_between(queries_N, low_N, high_N, color=color, alpha=0.2, linewidth=0, label="95 % interval")
    axes.plot(queries_N, mean_N, "o", color=color, alpha=0.35, markersize=3.5, markeredgewidth=0, label="iterations")
    axes.plot(queries_N, smooth_N, color=color, linewidth=2.2, label=line_label)
    rises = smooth_N[-1] >= smooth_N[0]
    for index, side, above in ((0, "left", not rises), (len(smooth_N) - 1, "right", rises)):
        axes.annotate(
            f"{smooth_N[index]:.4g}".replace("-", MINUS),
            (queries_N[index], high_N[index] if above else low_N[index]),
            xytext=(0, 5 if above else -5),
            textcoords="offset points",
            ha=side,
            va="bottom" if above else "top",
            fontweight="bold",
            color=color,
        )
    axes.set_xlabel("reward queries")
    axes.set_ylabel(label)
    axes.set_title(title)
    axes.margins(x=0.03, y=0.14)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.legend(frameon=False, loc="best", fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(path, buffer.getvalue())


def running_mean(mean_N: Floats, error_N: Floats, window: int) -> tuple[Floats, Floats]:
    """Return the centred running mean of `mean_N` and its standard error, both `(N,)`.

    The mean of the k iterations in reach (fewer at the ends) has the standard error `sqrt(sum error^2) / k`: their
    samples are independent.
    """
    number = len(mean_N)
    reach = window // 2
    smooth_N, smooth_error_N = np.empty(number), np.empty(number)
    for index in range(number):
        part = slice(max(0, index - reach), index + reach + 1)
        smooth_N[index] = mean_N[part].mean()
        smooth_error_N[index] = math.sqrt(float((error_N[part] ** 2).sum())) / len(mean_N[part])
    return smooth_N, smooth_error_N


def _series(metrics: Sequence[Mapping[str, Any]], path: str | Path) -> tuple[Floats, Floats, Floats]:
    """Return queries, mean and standard error (0 where unknown) of the iterations that have a finite mean."""
    rows = []
    for entry in metrics:
        queries, mean = _number(entry.get("reward_queries")), _number(entry.get("reward/mean"))
        error = _number(entry.get("reward/standard_error"))
        if math.isfinite(queries) and math.isfinite(mean):
            rows.append((queries, mean, error if math.isfinite(error) else 0.0))
    if not rows:
        raise RunFolderError(f"Nothing to draw in '{path}': no iteration has reward_queries and reward/mean.")
    table = np.array(rows, dtype=np.float64)
    return table[:, 0], table[:, 1], table[:, 2]


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float | np.number) else math.nan
