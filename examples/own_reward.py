"""A reward of your own: a function of samples, prompts and metadata.

    ddpo train reward=examples/own_reward.py:redness iterations=12

It gets decoded samples, pictures `(B, 3, H, W)` in [0, 1] as a file would show them, and returns `B` numbers, higher is
better. Options are keyword arguments: `"reward={name: examples/own_reward.py:redness, minimum: 0.2}"`.
"""

from typing import Any

from torch import Tensor


def redness(images: Tensor, prompts: list[str], metadata: list[dict[str, Any]], *, minimum: float = -1.0) -> Tensor:
    """Return how much red exceeds green and blue, `(B,)`; at least `minimum`."""
    return (images[:, 0] - images[:, 1:].mean(1)).mean((1, 2)).clamp(min=minimum)


redness.label = "red above green and blue"  # in tables and figures
redness.media = ("image",)  # refused for a model of anything else; without it any samples are taken
