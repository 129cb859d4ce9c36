"""Drawn backgrounds, 64x64 RGB in [0, 1], each with the words that name it.

More than half of them are busy (field, sea, night, stripes, dots, checks), so that a prompt that names no background
gives pictures whose JPEG size has something to lose: that is what a compressibility reward removes.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

SIZE = 64
Picture = NDArray[np.float32]  # (SIZE, SIZE, 3)
Random = np.random.Generator

COLOURS = {
    "red": (0.86, 0.20, 0.18), "orange": (0.96, 0.58, 0.18), "yellow": (0.98, 0.85, 0.30), "green": (0.36, 0.72, 0.36),
    "blue": (0.28, 0.52, 0.90), "purple": (0.58, 0.36, 0.78), "pink": (0.96, 0.62, 0.76), "brown": (0.55, 0.38, 0.24),
    "grey": (0.60, 0.60, 0.62), "white": (0.98, 0.98, 0.98), "black": (0.06, 0.06, 0.08),
}  # fmt: skip
_Y, _X = (grid.astype(np.float32) for grid in np.mgrid[0:SIZE, 0:SIZE])


def _colour(random: Random) -> tuple[str, Picture]:
    name = str(random.choice(list(COLOURS)))
    return name, np.clip(np.float32(COLOURS[name]) + random.normal(0, 0.03, 3), 0, 1).astype(np.float32)


def _mix(mask: Picture, first: Picture, second: Picture) -> Picture:
    """first where mask is 0, second where it is 1; mask (SIZE, SIZE)."""
    return (1 - mask[..., None]) * first + mask[..., None] * second


def _noise(random: Random, cells: int) -> Picture:
    """Smooth noise in [-1, 1]: a cells x cells grid, interpolated."""
    coarse = random.uniform(-1, 1, (cells + 1, cells + 1)).astype(np.float32)
    at = np.linspace(0, cells, SIZE, endpoint=False)
    low, part = at.astype(int), (at % 1).astype(np.float32)
    rows = coarse[low] * (1 - part[:, None]) + coarse[low + 1] * part[:, None]
    return rows[:, low] * (1 - part) + rows[:, low + 1] * part


def plain(random: Random) -> tuple[Picture, str]:
    name, colour = _colour(random)
    return np.broadcast_to(colour, (SIZE, SIZE, 3)).copy(), f"on a {name} background"


def gradient(random: Random) -> tuple[Picture, str]:
    (_, top), (_, bottom) = _colour(random), _colour(random)
    return _mix(_Y / (SIZE - 1), top, bottom), "on a gradient background"


def field(random: Random) -> tuple[Picture, str]:
    """Sky above, grass of two greens in tufts below."""
    horizon = random.uniform(18, 34) + 3 * _noise(random, 3)[:1]
    grass = np.clip(0.5 + 0.8 * _noise(random, 20) * (0.6 + 0.4 * np.sin(_X * 2.1)), 0, 1)
    green = _mix(grass, np.float32([0.22, 0.52, 0.20]), np.float32([0.55, 0.80, 0.36]))
    sky = _mix(_Y / 40 * 0.6, np.float32([0.50, 0.76, 0.96]), np.float32([0.90, 0.96, 1.0]))
    return _mix((horizon < _Y).astype(np.float32), sky, green), "in a field"


def sea(random: Random) -> tuple[Picture, str]:
    """Blue water with rows of light wave crests."""
    period, phase = random.uniform(9, 14), random.uniform(0, 6)
    crest = np.sin((_Y + 1.6 * np.sin(_X / random.uniform(2.5, 4.0) + phase)) * 2 * np.pi / period)
    deep = _mix(_Y / SIZE, np.float32([0.24, 0.60, 0.88]), np.float32([0.06, 0.28, 0.62]))
    return _mix(np.clip(3 * crest - 2, 0, 1) * 0.7, deep, np.float32([0.85, 0.95, 1.0])), "in the sea"


def night(random: Random) -> tuple[Picture, str]:
    """Dark sky, stars and often a moon."""
    dark = _mix(_Y / SIZE, np.float32([0.03, 0.04, 0.16]), np.float32([0.12, 0.12, 0.34]))
    light = np.zeros((SIZE, SIZE), np.float32)
    for _ in range(random.integers(14, 30)):
        y, x = random.uniform(0, SIZE, 2)
        light = np.maximum(light, np.clip(random.uniform(1.4, 2.4) - np.hypot(_Y - y, _X - x), 0, 1))
    if random.random() < 0.6:
        y, x = random.uniform(4, 16), random.uniform(4, 60)
        light = np.maximum(light, np.clip(7.5 - np.hypot(_Y - y, _X - x), 0, 1))
    return _mix(light, dark, np.float32([1.0, 0.97, 0.78])), "at night"


def stripes(random: Random) -> tuple[Picture, str]:
    (_, one), (_, two) = _colour(random), _colour(random)
    angle = random.choice([0, np.pi / 4, np.pi / 2, 3 * np.pi / 4])
    along = _X * np.cos(angle) + _Y * np.sin(angle) + random.uniform(0, 20)
    wave = np.sin(along * 2 * np.pi / random.uniform(9, 16))
    return _mix(np.clip(0.5 + 2.5 * wave, 0, 1), one, two), "on stripes"


def dots(random: Random) -> tuple[Picture, str]:
    (_, one), (_, two) = _colour(random), _colour(random)
    period = random.uniform(10, 16)
    row = np.floor((_Y + random.uniform(0, period)) / period)
    x = (_X + row * period / 2) % period - period / 2
    y = (_Y + random.uniform(0, period)) % period - period / 2
    return _mix(np.clip(period * 0.29 + 0.5 - np.hypot(x, y), 0, 1), one, two), "on dots"


def checks(random: Random) -> tuple[Picture, str]:
    (_, one), (_, two) = _colour(random), _colour(random)
    side = random.integers(7, 12)
    offset = random.integers(0, side, 2)
    mask = ((_X + offset[0]) // side + (_Y + offset[1]) // side) % 2
    return _mix(mask.astype(np.float32), one, two), "on checks"


# How often each is drawn: 65 % are busy.
KINDS: dict[Callable[[Random], tuple[Picture, str]], float] = {
    plain: 0.20, gradient: 0.15, field: 0.16, sea: 0.11, night: 0.11, stripes: 0.11, dots: 0.10, checks: 0.06,
}  # fmt: skip


def draw(random: Random) -> tuple[Picture, str]:
    """A background and the words that name it."""
    kinds = list(KINDS)
    picture, words = kinds[random.choice(len(kinds), p=list(KINDS.values()))](random)
    return picture.astype(np.float32), words
