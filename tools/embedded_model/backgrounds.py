"""Drawn backgrounds in batches, 64x64 RGB in [0, 1], each with the words that name it.

More than half of them are busy (field, sea, night, stripes, dots, checks), so that a prompt that names no background
gives pictures whose JPEG size has something to lose: that is what a compressibility reward removes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

SIZE = 64
COLOURS = {
    "red": (0.86, 0.20, 0.18), "orange": (0.96, 0.58, 0.18), "yellow": (0.98, 0.85, 0.30), "green": (0.36, 0.72, 0.36),
    "blue": (0.28, 0.52, 0.90), "purple": (0.58, 0.36, 0.78), "pink": (0.96, 0.62, 0.76), "brown": (0.55, 0.38, 0.24),
    "grey": (0.60, 0.60, 0.62), "white": (0.98, 0.98, 0.98), "black": (0.06, 0.06, 0.08),
}  # fmt: skip


@dataclass
class Random:
    """Random numbers drawn on the CPU, so that equal seeds give equal pictures on every device; `count` a call."""

    generator: torch.Generator
    device: torch.device
    count: int

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """(count, *shape)."""
        return (torch.rand(self.count, *shape, generator=self.generator) * (high - low) + low).to(self.device)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """From low to high - 1, int64."""
        return torch.randint(low, high, (self.count, *shape), generator=self.generator)

    def normal(self, deviation: float, *shape: int) -> Tensor:
        return (torch.randn(self.count, *shape, generator=self.generator) * deviation).to(self.device)

    def maps(self, low: float, high: float) -> Tensor:
        """One number a picture, in the shape that meets `axes`: (count, 1, 1)."""
        return self.uniform(low, high, 1, 1)

    def named_colours(self) -> tuple[list[str], Tensor]:
        """Names and colours (count, 3, 1, 1)."""
        which = self.integers(0, len(COLOURS))
        colours = torch.tensor(list(COLOURS.values()))[which].to(self.device) + self.normal(0.03, 3)
        return [list(COLOURS)[i] for i in which.tolist()], colours.clamp(0, 1)[..., None, None]

    def colour(self) -> Tensor:
        return self.named_colours()[1]

    def axes(self) -> tuple[Tensor, Tensor]:
        """The pixels' y (64, 1) and x (1, 64)."""
        line = torch.arange(SIZE, dtype=torch.float32, device=self.device)
        return line[:, None], line[None]

    def noise(self, cells: int) -> Tensor:
        """Smooth noise in [-1, 1], (count, 64, 64): a cells x cells grid, interpolated."""
        coarse = self.uniform(-1, 1, 1, cells + 1, cells + 1)
        at = torch.arange(SIZE, device=self.device) * (2 / SIZE) - 1
        points = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1).expand(self.count, SIZE, SIZE, 2)
        return functional.grid_sample(coarse, points, align_corners=True)[:, 0]

    def constant(self, *colour: float) -> Tensor:
        return torch.tensor(colour, device=self.device)[:, None, None]


Drawn = tuple[Tensor, list[str]]  # (count, 3, 64, 64) and the words for each


def _mix(mask: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """first where mask (count, 64, 64) is 0, second where it is 1."""
    return first + mask[:, None] * (second - first)


def plain(random: Random) -> Drawn:
    names, colour = random.named_colours()
    return colour.expand(-1, 3, SIZE, SIZE), [f"on a {name} background" for name in names]


def gradient(random: Random) -> Drawn:
    y, _ = random.axes()
    mask = (y / (SIZE - 1)).expand(random.count, SIZE, SIZE)
    return _mix(mask, random.colour(), random.colour()), ["on a gradient background"] * random.count


def field(random: Random) -> Drawn:
    """Sky above, grass of two greens in tufts below."""
    y, x = random.axes()
    horizon = random.maps(18, 34) + 3 * random.noise(3)[:, :1]
    grass = (0.5 + 0.8 * random.noise(20) * (0.6 + 0.4 * torch.sin(x * 2.1))).clamp(0, 1)
    green = _mix(grass, random.constant(0.22, 0.52, 0.20), random.constant(0.55, 0.80, 0.36))
    height = (y / 40 * 0.6).expand(random.count, SIZE, SIZE)
    sky = _mix(height, random.constant(0.50, 0.76, 0.96), random.constant(0.90, 0.96, 1.0))
    return _mix((horizon < y).float(), sky, green), ["in a field"] * random.count


def sea(random: Random) -> Drawn:
    """Blue water with rows of light wave crests."""
    y, x = random.axes()
    period, phase = random.maps(9, 14), random.maps(0, 6)
    crest = torch.sin((y + 1.6 * torch.sin(x / random.maps(2.5, 4.0) + phase)) * 2 * math.pi / period)
    depth = (y / SIZE).expand(random.count, SIZE, SIZE)
    water = _mix(depth, random.constant(0.24, 0.60, 0.88), random.constant(0.06, 0.28, 0.62))
    return _mix((3 * crest - 2).clamp(0, 1) * 0.7, water, random.constant(0.85, 0.95, 1.0)), ["in the sea"] * len(water)


def night(random: Random) -> Drawn:
    """Dark sky, 14 to 29 stars and often a moon."""
    y, x = random.axes()
    most = 29
    row, column = random.uniform(0, SIZE, most, 2, 1, 1).unbind(2)
    shown = torch.arange(most) < random.integers(14, most + 1, 1)
    size = random.uniform(1.4, 2.4, most, 1, 1) * shown[..., None, None].to(random.device)
    light = (size - torch.hypot(y - row, x - column)).clamp(0, 1).amax(1)
    moon = (7.5 - torch.hypot(y - random.maps(4, 16), x - random.maps(4, 60))).clamp(0, 1)
    light = torch.maximum(light, moon * (random.maps(0, 1) < 0.6))
    depth = (y / SIZE).expand(random.count, SIZE, SIZE)
    dark = _mix(depth, random.constant(0.03, 0.04, 0.16), random.constant(0.12, 0.12, 0.34))
    return _mix(light, dark, random.constant(1.0, 0.97, 0.78)), ["at night"] * random.count


def stripes(random: Random) -> Drawn:
    y, x = random.axes()
    angle = random.integers(0, 4, 1, 1).to(random.device) * (math.pi / 4)
    along = x * torch.cos(angle) + y * torch.sin(angle) + random.maps(0, 20)
    wave = torch.sin(along * 2 * math.pi / random.maps(9, 16))
    return _mix((0.5 + 2.5 * wave).clamp(0, 1), random.colour(), random.colour()), ["on stripes"] * random.count


def dots(random: Random) -> Drawn:
    y, x = random.axes()
    period = random.maps(10, 16)
    row = torch.floor((y + random.maps(0, 1) * period) / period)
    x = (x + row * period / 2) % period - period / 2
    y = (y + random.maps(0, 1) * period) % period - period / 2
    mask = (period * 0.29 + 0.5 - torch.hypot(x, y)).clamp(0, 1)
    return _mix(mask, random.colour(), random.colour()), ["on dots"] * random.count


def checks(random: Random) -> Drawn:
    y, x = random.axes()
    side = random.integers(7, 12, 1, 1).to(random.device)
    down, across = (torch.floor(random.maps(0, 1) * side) for _ in range(2))
    mask = ((x + across) // side + (y + down) // side) % 2
    return _mix(mask, random.colour(), random.colour()), ["on checks"] * random.count


# How often each is drawn: 65 % are busy.
KINDS: dict[Callable[[Random], Drawn], float] = {
    plain: 0.20, gradient: 0.15, field: 0.16, sea: 0.11, night: 0.11, stripes: 0.11, dots: 0.10, checks: 0.06,
}  # fmt: skip


def draw(count: int, generator: torch.Generator, device: torch.device) -> Drawn:
    """Backgrounds (count, 3, 64, 64) and the words that name each."""
    kinds = torch.multinomial(torch.tensor(list(KINDS.values())), count, replacement=True, generator=generator)
    images, words = torch.empty(count, 3, SIZE, SIZE, device=device), [""] * count
    for index, kind in enumerate(KINDS):
        rows = (kinds == index).nonzero()[:, 0]
        if len(rows):
            drawn, named = kind(Random(generator, device, len(rows)))
            images[rows.to(device)] = drawn.float()
            for row, text in zip(rows.tolist(), named, strict=True):
                words[row] = text
    return images, words
