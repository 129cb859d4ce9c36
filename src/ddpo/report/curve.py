"""The reward curve: mean reward against reward queries, as in Figure 3 of the paper."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddpo.report.wording import number
from ddpo.runs.record import Floats, finite
from ddpo.runtime.errors import RunFolderError
from ddpo.runtime.files import write_atomically

NORMAL_95 = 1.959964
"""Half the width of the 95 % interval of a normal distribution, in standard deviations."""
_COLOUR = "#1f5fa8"


def draw_curve(
    metrics: Sequence[Mapping[str, Any]], path: str | Path, *, title: str = "", label: str = "reward"
) -> None:
    """Write a PNG of the mean reward against reward queries.

    Points are the means of the iterations (`reward/mean`); the line is their running mean and the band its 95 %
    interval, from `reward/standard_error`. `label` is the reward's name with its unit.

    Raises RunFolderError when no iteration holds `reward_queries` and a finite `reward/mean`.
    """
    from matplotlib.figure import Figure

    keys = ("reward_queries", "reward/mean", "reward/standard_error")
    rows = [[finite(entry.get(key)) for key in keys] for entry in metrics]
    known = [(queries, mean, error or 0.0) for queries, mean, error in rows if queries is not None and mean is not None]
    if not known:
        raise RunFolderError(f"Nothing to draw in '{path}': no iteration has reward_queries and reward/mean.")
    queries_N, mean_N, error_N = np.array(known).T
    smooth_N, smooth_error_N = running_mean(mean_N, error_N)
    reach_N = NORMAL_95 * smooth_error_N

    figure = Figure(figsize=(7.5, 4.5), dpi=150, layout="constrained")
    axes = figure.add_subplot(xlabel="reward queries", ylabel=label, title=title)
    told = f"running mean, {number(smooth_N[0])} to {number(smooth_N[-1])}"
    band = smooth_N - reach_N, smooth_N + reach_N
    axes.fill_between(queries_N, *band, color=_COLOUR, alpha=0.2, linewidth=0, label="95 % interval")
    axes.plot(queries_N, mean_N, "o", color=_COLOUR, alpha=0.35, markersize=3.5, markeredgewidth=0, label="iterations")
    axes.plot(queries_N, smooth_N, color=_COLOUR, linewidth=2.2, label=told)
    axes.margins(x=0.03, y=0.14)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.legend(frameon=False, loc="best", fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(path, buffer.getvalue())


def running_mean(mean_N: Floats, error_N: Floats, window: int | None = None) -> tuple[Floats, Floats]:
    """Return the centred running mean of `mean_N` and its standard error, both `(N,)`.

    `window` is the number of values in reach, by default a tenth of them, an even one counting as the next odd one.
    The mean of the k values in reach (fewer at the ends) has the standard error `sqrt(sum error^2) / k`: their
    samples are independent.
    """
    reach = (len(mean_N) // 10 if window is None else window) // 2
    stretches = [slice(max(0, index - reach), index + reach + 1) for index in range(len(mean_N))]
    smooth = [mean_N[stretch].mean() for stretch in stretches]
    error = [np.sqrt(np.square(error_N[stretch]).sum()) / len(error_N[stretch]) for stretch in stretches]
    return np.array(smooth), np.array(error)
