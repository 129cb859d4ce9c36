"""Prompts of your own: a function that returns a list, with metadata for the reward.

ddpo train prompts=examples/own_prompts.py:coloured reward=examples/own_prompts.py:has_the_colour iterations=12
"""

from typing import Any

import torch
from torch import Tensor

from ddpo.core.prompt import Prompt

COLOURS = {"red": (0.9, 0.1, 0.1), "green": (0.1, 0.7, 0.2), "blue": (0.1, 0.2, 0.9)}


def coloured(animals: tuple[str, ...] = ("cat", "bird", "fish")) -> list[Prompt]:
    """Return "a red cat" and so on; the metadata hold the colour as a tensor."""
    return [
        Prompt(f"a {name} {animal}", {"colour": torch.tensor(rgb)})
        for name, rgb in COLOURS.items()
        for animal in animals
    ]


def has_the_colour(images: Tensor, prompts: list[str], metadata: list[dict[str, Any]]) -> Tensor:
    """Return minus the distance of each picture's mean colour from the one in its metadata, `(B,)`."""
    wanted = torch.stack([each["colour"] for each in metadata])
    return -(images.mean((2, 3)) - wanted).norm(dim=1)
