"""The medium `array`: numbers of any shape, drawn as small plots where they are points, sets of points or curves."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ddpo.media.diversity import mean_difference

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL.Image import Image as Picture
    from torch import Tensor

    Values = npt.NDArray[np.float64]

SIDE = 192
"""Height and width of a plot, pixels."""
MOST_CHANNELS = 6
"""Curves in one plot; samples with more are not drawn."""
_FINE = 3
"""A plot is drawn this many times as large and then scaled down: smooth edges."""
_MARGIN = 8
"""Pixels between the frame and a value at the limit."""
_PAPER, _FRAME, _AXIS, _INK = "#ffffff", "#b0b0b0", "#e4e4e4", "#707070"
_OTHERS, _POINT = "#a9bad8", "#c62828"
_CURVES = ("#1f4e9c", "#c62828", "#2e7d32", "#e08a00", "#6a3d9a", "#00838f")


class Array:
    """Samples `(B, ...)` of any shape and scale, which rewards get as they are."""

    name = "array"

    def __init__(self, limits: tuple[float, float] | None = None) -> None:
        """`limits` are the lowest and highest value of the plots' axes; None: round ones around all values of a call.

        Raises ValueError unless the first is below the second.
        """
        if limits is not None and not limits[0] < limits[1]:
            raise ValueError(f"The limits of an array's plots are {limits}: the first must be below the second.")
        self._limits = limits

    def as_seen(self, samples: Tensor) -> Tensor:
        """Return a copy of samples `(B, ...)`, every value as it is."""
        return samples.detach().contiguous().clone()

    def thumbnails(self, samples: Tensor) -> npt.NDArray[np.uint8] | None:
        """Return plots `(B, SIDE, SIDE, 3)`, all with the same axes, of points, sets of points and curves.

        A sample `(2,)` is a point among those of the other samples (`(1,)`: on a line), `(N, 2)` is N points, `(T,)`
        and `(T, C)` are curves over T. None for every other shape, and for more than `MOST_CHANNELS` curves. What lies
        outside fixed limits is drawn at the frame. Raises ValueError when a sample holds NaN or an infinity.
        """
        values = samples.detach().double().numpy()
        if not np.isfinite(values).all():
            raise ValueError("the array holds NaN or an infinity")
        draw = _plot_of(values.shape[1:])
        if draw is None or not len(values):
            return None
        low, high = self._limits or _round_limits(values)
        share = (values.clip(low, high) - low) / (high - low)
        zero = -low / (high - low)
        return np.stack([np.asarray(_scaled_down(plot, low, high)) for plot in draw(share, zero)])

    def diversity(self, samples: Tensor) -> float | None:
        """Return the mean root mean square difference of all pairs, in the samples' unit; None with fewer than two."""
        return mean_difference(samples.detach().numpy())


def _plot_of(shape: tuple[int, ...]) -> Any:
    """Return what draws samples of a shape; None where nothing does."""
    if shape in ((), (1,), (2,)):
        return _draw_point
    if len(shape) == 2 and shape[0] and shape[1] == 2:
        return _draw_points
    curves = shape[0] > 1 if len(shape) == 1 else len(shape) == 2 and shape[0] > 1 and 1 <= shape[1] <= MOST_CHANNELS
    return _draw_curves if curves else None


def _draw_point(share: Values, zero: float) -> list[Picture]:
    """Draw each sample's point `(2,)` or `(1,)`, shares of the axes, among those of all samples."""
    point_B2 = share.reshape(len(share), -1)
    if point_B2.shape[1] == 1:
        point_B2 = np.concatenate([point_B2, np.full_like(point_B2, 0.5)], axis=1)
    background = _blank(zero)
    _dots(background, point_B2, radius=2, colour=_OTHERS)
    plots = [background.copy() for _ in point_B2]
    for plot, point in zip(plots, point_B2, strict=True):
        _dots(plot, point[None], radius=5, colour=_POINT)
    return plots


def _draw_points(share: Values, zero: float) -> list[Picture]:
    """Draw each sample's points `(N, 2)`, shares of the axes."""
    plots = [_blank(zero) for _ in share]
    for plot, point_N2 in zip(plots, share, strict=True):
        _dots(plot, point_N2, radius=2, colour=_CURVES[0])
    return plots


def _draw_curves(share: Values, zero: float) -> list[Picture]:
    """Draw each sample's values `(T,)` or `(T, C)`, shares of the vertical axis, over T."""
    from PIL import ImageDraw

    value_BTC = share.reshape(len(share), share.shape[1], -1)
    across_T = np.linspace(0, 1, value_BTC.shape[1])
    plots = [_blank(zero, vertical=False) for _ in share]
    for plot, value_TC in zip(plots, value_BTC, strict=True):
        for value_T, colour in zip(value_TC.T, _CURVES, strict=False):
            places = _places(np.stack([across_T, value_T], axis=1))
            ImageDraw.Draw(plot).line([tuple(place) for place in places], colour, 2 * _FINE, "curve")
    return plots


def _blank(zero: float, *, vertical: bool = True) -> Picture:
    """Return an empty plot, `_FINE` times too large, with a frame and, where they are inside, lines at zero."""
    from PIL import Image, ImageDraw

    side = SIDE * _FINE
    plot = Image.new("RGB", (side, side), _PAPER)
    draw = ImageDraw.Draw(plot)
    if 0 < zero < 1:
        x, y = _places(np.array([[zero, zero]]))[0]
        draw.line([(0, y), (side, y)], _AXIS, _FINE)
        if vertical:
            draw.line([(x, 0), (x, side)], _AXIS, _FINE)
    draw.rectangle((0, 0, side - 1, side - 1), outline=_FRAME, width=_FINE)
    return plot


def _dots(plot: Picture, point_N2: Values, *, radius: float, colour: str) -> None:
    from PIL import ImageDraw

    draw = ImageDraw.Draw(plot)
    for x, y in _places(point_N2):
        draw.ellipse((x - radius * _FINE, y - radius * _FINE, x + radius * _FINE, y + radius * _FINE), colour)


def _places(point_N2: Values) -> Values:
    """Return the pixels `(N, 2)`, from the top left, of shares of the axes, from the bottom left."""
    right_up_N2 = (_MARGIN + point_N2 * (SIDE - 2 * _MARGIN)) * _FINE
    return np.stack([right_up_N2[:, 0], SIDE * _FINE - right_up_N2[:, 1]], axis=1)


def _scaled_down(plot: Picture, low: float, high: float) -> Picture:
    """Return the plot in its final size, with the limits of its axes in the corners."""
    from PIL import Image, ImageDraw, ImageFont

    small = plot.resize((SIDE, SIDE), Image.Resampling.BOX)
    draw, font = ImageDraw.Draw(small), ImageFont.load_default(11)
    draw.text((4, SIDE - 4), f"{low:g}", _INK, font, "lb")
    draw.text((4, 3), f"{high:g}", _INK, font, "lt")
    return small


def _round_limits(values: Values) -> tuple[float, float]:
    """Return -x and x, x being the least of 1, 2 and 5 times a power of ten that no value exceeds."""
    largest = float(np.abs(values).max(initial=0.0)) or 1.0
    power = 10.0 ** math.floor(math.log10(largest))
    limit = next(limit for factor in (1, 2, 5, 10) if (limit := factor * power) >= largest)
    return -limit, limit
