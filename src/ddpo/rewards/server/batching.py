"""Dynamic batching: one thread that scores what concurrent requests have brought, in the order it came."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ddpo.media import Image
from ddpo.rewards import NamedReward, score
from ddpo.rewards.server import Limits
from ddpo.runtime.errors import RewardError

if TYPE_CHECKING:
    import numpy.typing as npt

Outcome = float | RewardError
"""A score, or why there is none."""


@dataclass(frozen=True, eq=False)
class Sample:
    """What a reward sees of one sample, and what will become of it."""

    pixels: npt.NDArray[np.uint8]
    """`(H, W, 3)`."""
    prompt: str
    metadata: dict[str, Any]
    outcome: Future[Outcome] = field(default_factory=Future)


class Batcher:
    """Runs a reward in a thread of its own: rewards need not be safe to call from several."""

    def __init__(self, reward: NamedReward, limits: Limits) -> None:
        """Start the thread; it ends with the program."""
        self._reward, self._limits = reward, limits
        self._waiting: deque[Sample] = deque()
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="reward", daemon=True).start()

    def submit(self, samples: Sequence[Sample]) -> bool:
        """Return whether the samples wait now: not when too many, or too large ones, wait already."""
        with self._changed:
            together = [*self._waiting, *samples]
            pixels = sum(sample.pixels.size // 3 for sample in together)
            full = len(together) > self._limits.waiting_samples or pixels > self._limits.waiting_pixels
            if self._waiting and full:
                return False
            self._waiting.extend(samples)
            self._changed.notify_all()
        return True

    def _run(self) -> None:
        while True:
            batch = self._next_batch()
            for sample, outcome in zip(batch, outcomes_of(self._reward, batch), strict=True):
                if sample.outcome.set_running_or_notify_cancel():
                    sample.outcome.set_result(outcome)

    def _next_batch(self) -> list[Sample]:
        """Wait for samples, shortly for more of them, and take those in front that have the same size."""
        most = self._limits.max_batch
        with self._changed:
            self._changed.wait_for(lambda: self._waiting)
            self._changed.wait_for(lambda: len(self._waiting) >= most, self._limits.wait_seconds)
            shape, batch = self._waiting[0].pixels.shape, list[Sample]()
            while self._waiting and len(batch) < most and self._waiting[0].pixels.shape == shape:
                batch.append(self._waiting.popleft())
            return batch


def outcomes_of(reward: NamedReward, samples: Sequence[Sample]) -> list[Outcome]:
    """Return each sample's score, or the error that it alone gives: a batch that fails is halved until it is known."""
    import torch

    levels_BCHW = np.stack([sample.pixels for sample in samples]).transpose(0, 3, 1, 2)
    images = torch.from_numpy(np.ascontiguousarray(levels_BCHW, dtype=np.float32) / np.float32(255))
    prompts, metadata = [sample.prompt for sample in samples], [sample.metadata for sample in samples]
    try:
        return [float(value) for value in score(reward, Image(), images, prompts, metadata)]
    except BaseException as error:  # also SystemExit: a reward must not end the thread that others wait for
        if len(samples) == 1:
            name = type(error).__name__
            text = str(error) if isinstance(error, RewardError) else f"Reward '{reward.name}' raised {name}: {error}"
            return [RewardError(text)]
    middle = len(samples) // 2
    return outcomes_of(reward, samples[:middle]) + outcomes_of(reward, samples[middle:])
