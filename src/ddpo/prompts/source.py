"""Where contexts come from and how they are drawn: the context distribution p(c) of the paper, uniform over a list."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ddpo.core.prompt import Prompt
from ddpo.runtime.errors import PromptError

_STREAM = 0x50524F4D
"""Sets the prompts' random numbers apart from others made of the same seed and iteration ("PROM")."""


@dataclass(frozen=True)
class PromptSource:
    """A list of prompts to draw from. Raises PromptError when it is empty."""

    name: str
    prompts: tuple[Prompt, ...]

    def __post_init__(self) -> None:
        if not self.prompts:
            raise PromptError(f"Prompts '{self.name}' hold no prompt.")

    def __len__(self) -> int:
        return len(self.prompts)

    def draw(
        self, number: int, *, seed: int, iteration: int, samples_per_prompt: int = 1, first: int = 0
    ) -> list[Prompt]:
        """Return the prompts of samples `first` to `first + number - 1` of an iteration.

        Uniform, with replacement. The prompt of sample `i` depends on `(seed, iteration, i // samples_per_prompt)`
        and nothing else, so any process draws any part; each drawn prompt is that of `samples_per_prompt`
        consecutive samples.

        Raises ValueError when `seed`, `iteration` or `first` is negative or `samples_per_prompt` below 1.
        """
        if min(seed, iteration, first) < 0 or samples_per_prompt < 1:
            raise ValueError("seed, iteration and first must not be negative, samples_per_prompt must be at least 1")
        groups = [index // samples_per_prompt for index in range(first, first + number)]
        drawn = {group: self._draw_one(seed, iteration, group) for group in set(groups)}
        return [drawn[group] for group in groups]

    def fixed(self, number: int) -> list[Prompt]:
        """Return `number` prompts that never change, for the evaluation grid.

        They spread evenly over the list; when there are fewer prompts than `number` they repeat in turn.
        """
        length = len(self.prompts)
        places = (index * length // number if number <= length else index % length for index in range(number))
        return [self.prompts[place] for place in places]

    def _draw_one(self, seed: int, iteration: int, group: int) -> Prompt:
        # Raw Philox bits: NumPy keeps them the same for ever, which it does not promise for Generator.integers.
        # floor(bits n / 2^64) is uniform over 0..n-1 to within n / 2^64.
        sequence = np.random.SeedSequence(seed, spawn_key=(_STREAM, iteration, group))
        bits = int(np.random.Philox(sequence).random_raw())
        return self.prompts[(bits * len(self.prompts)) >> 64]
