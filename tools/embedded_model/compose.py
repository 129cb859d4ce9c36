"""Put drawings on backgrounds: 64x64 pictures with captions and the judge's labels, in batches."""

from dataclasses import dataclass

import backgrounds
import numpy as np
import torch
from drawings import Record
from nouns import ANIMALS, with_article
from numpy.typing import NDArray
from torch.nn import functional

SIZE = backgrounds.SIZE
STYLES = {
    "noto": "soft", "noto-v1": "soft", "fxemoji": "simple", "fluent-emoji": "shiny", "fluent-emoji-flat": "flat",
    "fluent-emoji-3d": "3d", "fluent-emoji-anim": "3d", "twemoji": "flat", "emojione": "flat",
    "streamline-emojis": "outlined",
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
    """Draws pictures for ever; equal seeds give equal pictures."""

    def __init__(
        self,
        pictures: NDArray[np.uint8],
        records: list[Record],
        seed: int,
        augmentation: Augmentation = MILD,
        mixture: Mixture | None = None,
    ) -> None:
        self.random = np.random.default_rng(seed)
        self.pictures, self.records = pictures, records
        self.augmentation, self.mixture = augmentation, mixture or Mixture()
        self.of_noun: dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]] = {}
        members: dict[str, list[int]] = {}
        for index, record in enumerate(records):
            members.setdefault(record.noun, []).append(index)
        for noun, indices in members.items():
            weights = np.array([records[i].weight for i in indices])
            self.of_noun[noun] = (np.array(indices), weights / weights.sum())
        self.animals = [animal for animal in ANIMALS if animal in members]
        self.others = sorted(noun for noun in members if noun not in ANIMALS)

    def batch(self, size: int) -> tuple[torch.Tensor, list[str], torch.Tensor]:
        """Pictures (size, 3, 64, 64) float in [0, 1], captions, labels (size,) int64."""
        chosen = [self._choose() for _ in range(size)]
        ground, named = zip(*(backgrounds.draw(self.random) for _ in range(size)), strict=True)
        images = torch.from_numpy(np.stack(ground)).permute(0, 3, 1, 2).contiguous()
        foreground = self._foreground([max(index, 0) for index in chosen])
        alpha = foreground[:, 3:] * torch.tensor([index >= 0 for index in chosen])[:, None, None, None]
        images = foreground[:, :3] * (alpha > 0) + images * (1 - alpha)
        captions = [self._caption(index, words) for index, words in zip(chosen, named, strict=True)]
        labels = [self.records[index].label if index >= 0 else len(ANIMALS) for index in chosen]
        return images.clamp(0, 1), captions, torch.tensor(labels)

    def _choose(self) -> int:
        """The index of a drawing, or -1 for an empty background."""
        where = self.random.random()
        if where < self.mixture.empty:
            return -1
        nouns = self.animals if where < self.mixture.empty + self.mixture.animals else self.others
        indices, weights = self.of_noun[nouns[self.random.integers(len(nouns))]]
        return int(self.random.choice(indices, p=weights))

    def _foreground(self, indices: list[int]) -> torch.Tensor:
        """Moved, coloured drawings, premultiplied by alpha: (B, 4, 64, 64), drawn at twice the size and averaged."""
        rgba = torch.from_numpy(np.stack([self.pictures[i] for i in indices])).permute(0, 3, 1, 2).float() / 255
        count, a, random = len(indices), self.augmentation, self.random
        tint = 1 + random.normal(0, a.colour, (count, 1)) + random.normal(0, a.colour, (count, 3))
        colour = (rgba[:, :3] * torch.tensor(tint, dtype=torch.float32)[:, :, None, None]).clamp(0, 1)
        rgba = torch.cat([colour * rgba[:, 3:], rgba[:, 3:]], 1)
        angle = np.deg2rad(random.uniform(-a.degrees, a.degrees, count))
        size = random.uniform(*a.scale, count)
        flip = random.choice([-1.0, 1.0], count)
        cos, sin = np.cos(angle) / size, np.sin(angle) / size
        shift = random.uniform(-2 * a.shift, 2 * a.shift, (2, count)) / size
        matrix = np.stack([np.stack([flip * cos, flip * -sin, shift[0]], -1), np.stack([sin, cos, shift[1]], -1)], 1)
        grid = functional.affine_grid(torch.tensor(matrix).float(), [count, 4, 2 * SIZE, 2 * SIZE], align_corners=False)
        return functional.avg_pool2d(functional.grid_sample(rgba, grid, align_corners=False), 2)

    def _caption(self, index: int, background: str) -> str:
        if index < 0:
            return "a background" if background.startswith("on") else f"nothing {background}"
        record = self.records[index]
        subject, where = with_article(record.noun), self.random.random()
        if where < self.mixture.background_named:
            return f"{subject} {background}"
        if where < self.mixture.background_named + self.mixture.style_named:
            return f"{subject}, {STYLES[record.source]} style"
        return subject
