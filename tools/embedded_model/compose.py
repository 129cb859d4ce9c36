"""Put drawings on backgrounds: 64x64 pictures with captions and the judge's labels, in batches, on any device."""

from dataclasses import dataclass
from pathlib import Path

import backgrounds
import drawings
import numpy as np
import torch
from nouns import ANIMALS, with_article
from torch import Tensor
from torch.nn import functional

SIZE = backgrounds.SIZE
STYLES = {
    "noto": "soft", "fluent-emoji": "shiny", "fluent-emoji-flat": "flat", "fluent-emoji-3d": "3d",
    "fluent-emoji-anim": "3d", "twemoji": "flat", "emojione": "flat", "streamline-emojis": "outlined",
}  # fmt: skip


@dataclass(frozen=True)
class Augmentation:
    """How far a drawing may be moved; the drawing's side is `scale` times the picture's."""

    scale: tuple[float, float]
    degrees: float
    shift: float
    colour: float


MILD = Augmentation(scale=(0.78, 1.0), degrees=6, shift=0.04, colour=0.05)
STRONG = Augmentation(scale=(0.7, 1.05), degrees=12, shift=0.08, colour=0.12)


@dataclass(frozen=True)
class Mixture:
    """The mass of each part; within the animals each animal weighs the same, and so does each other noun."""

    animals: float = 0.72
    empty: float = 0.02
    background_named: float = 1 / 3
    style_named: float = 0.10


class Composer:
    """Draws pictures for ever from the drawings of some sources; equal seeds give equal pictures."""

    def __init__(
        self,
        cache: Path,
        seed: int,
        device: torch.device,
        *,
        sources: tuple[str, ...] = drawings.GENERATOR_SOURCES,
        augmentation: Augmentation = MILD,
        mixture: Mixture | None = None,
    ) -> None:
        self.generator, self.device = torch.Generator().manual_seed(seed), device
        self.augmentation, self.mixture = augmentation, mixture or Mixture()
        pictures, self.records = drawings.load(cache, sources)
        self.pictures = torch.from_numpy(pictures).to(device)
        self.painted = torch.tensor([r.source not in drawings.SILHOUETTES for r in self.records])
        self.mass = self._mass()

    def _mass(self) -> Tensor:
        """How often each drawing is chosen; the last number is an empty background's."""
        masses: dict[str, float] = {}
        for record in self.records:
            masses[record.noun] = masses.get(record.noun, 0.0) + record.weight
        animals, empty = len(masses.keys() & set(ANIMALS)), self.mixture.empty
        part = {
            True: self.mixture.animals / animals,
            False: (1 - empty - self.mixture.animals) / (len(masses) - animals),
        }
        return torch.tensor([*(part[r.noun in ANIMALS] * r.weight / masses[r.noun] for r in self.records), empty])

    def batch(self, size: int) -> tuple[Tensor, list[str], Tensor]:
        """Pictures (size, 3, 64, 64) float in [0, 1], captions, labels (size,) int64."""
        chosen = torch.multinomial(self.mass, size, replacement=True, generator=self.generator)
        ground, named = backgrounds.draw(size, self.generator, self.device)
        shown = chosen < len(self.records)
        foreground = self._foreground(torch.where(shown, chosen, 0))
        foreground = foreground * shown.to(self.device)[:, None, None, None]
        images = foreground[:, :3] + ground * (1 - foreground[:, 3:])
        indices, roll = chosen.tolist(), torch.rand(size, generator=self.generator).tolist()
        captions = [self._caption(*facts) for facts in zip(indices, named, roll, strict=True)]
        labels = [self.records[i].label if i < len(self.records) else len(ANIMALS) for i in indices]
        return images.clamp(0, 1), captions, torch.tensor(labels, device=self.device)

    def _foreground(self, chosen: Tensor) -> Tensor:
        """Moved, coloured drawings, premultiplied by alpha: (B, 4, 64, 64), drawn at twice the size and averaged."""
        count, a = len(chosen), self.augmentation
        random = backgrounds.Random(self.generator, self.device, count)
        rgba = self.pictures[chosen.to(self.device)].permute(0, 3, 1, 2).float() / 255
        tint = 1 + random.normal(a.colour, 1, 1, 1) + random.normal(a.colour, 3, 1, 1)
        painted = self.painted[chosen].to(self.device)[:, None, None, None]
        tint = torch.where(painted, tint, random.colour())  # silhouettes are white in the file
        rgba = torch.cat([(rgba[:, :3] * tint).clamp(0, 1) * rgba[:, 3:], rgba[:, 3:]], 1)
        angle, size = random.uniform(-a.degrees, a.degrees) * (np.pi / 180), random.uniform(*a.scale)
        flip = random.integers(0, 2).to(self.device) * 2 - 1
        cos, sin = torch.cos(angle) / size, torch.sin(angle) / size
        right, down = random.uniform(-2 * a.shift, 2 * a.shift, 2).unbind(1)
        matrix = torch.stack([flip * cos, flip * -sin, right / size, sin, cos, down / size], 1).view(count, 2, 3)
        grid = functional.affine_grid(matrix, [count, 4, 2 * SIZE, 2 * SIZE], align_corners=False)
        return functional.avg_pool2d(functional.grid_sample(rgba, grid, align_corners=False), 2)

    def _caption(self, index: int, background: str, roll: float) -> str:
        """`roll` in [0, 1) decides whether the background or the style is named."""
        if index == len(self.records):
            return "a background" if background.startswith("on") else f"nothing {background}"
        record = self.records[index]
        subject = with_article(record.noun)
        if roll < self.mixture.background_named:
            return f"{subject} {background}"
        if roll < self.mixture.background_named + self.mixture.style_named:
            return f"{subject}, {STYLES.get(record.source, 'simple')} style"
        return subject
