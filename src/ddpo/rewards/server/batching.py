"""Dynamic batching: one thread that scores what concurrent requests have brought, in the order it came."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ddpo.media import Image
from ddpo.rewards import NamedReward, score
from ddpo.rewards.server import Limits
from ddpo.runtime.errors import RewardError

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor


class QueueFullError(Exception):
    """More waits already than the limits allow."""


@dataclass(frozen=True)
class Sample:
    """What a reward sees of one sample."""

    pixels: npt.NDArray[np.uint8]
    """`(H, W, 3)`."""
    prompt: str
    metadata: dict[str, Any]

    @property
    def number_of_pixels(self) -> int:
        """Width times height."""
        return self.pixels.size // 3


Outcome = float | RewardError
"""A score, or why there is none."""


class _Entry(NamedTuple):
    """A sample that waits, and what will become of it."""

    sample: Sample
    future: Future[Outcome]


class Batcher:
    """Runs a reward in a thread of its own: rewards need not be safe to call from several."""

    def __init__(self, reward: NamedReward, limits: Limits) -> None:
        """Start the thread; it ends with the program."""
        self._reward, self._limits = reward, limits
        self._waiting: deque[_Entry] = deque()
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="reward", daemon=True).start()

    def submit(self, samples: Sequence[Sample]) -> list[Future[Outcome]]:
        """Return what will be the outcome of each sample.

        Raises:
            QueueFullError: too many samples, or too large ones, wait already.
        """
        entries = [_Entry(sample, Future()) for sample in samples]
        with self._changed:
            pixels = sum(entry.sample.number_of_pixels for entry in self._waiting)
            if self._waiting and (
                len(self._waiting) + len(samples) > self._limits.waiting_samples
                or pixels + sum(sample.number_of_pixels for sample in samples) > self._limits.waiting_pixels
            ):
                raise QueueFullError
            self._waiting.extend(entries)
            self._changed.notify_all()
        return [entry.future for entry in entries]

    def _run(self) -> None:
        while True:
            batch = self._next_batch()
            outcomes = outcomes_of(self._reward, [entry.sample for entry in batch])
            for entry, outcome in zip(batch, outcomes, strict=True):
                if entry.future.set_running_or_notify_cancel():
                    entry.future.set_result(outcome)

    def _next_batch(self) -> list[_Entry]:
        """Wait for samples, shortly for more of them, and take those in front that have the same size."""
        most = self._limits.max_batch
        with self._changed:
            self._changed.wait_for(lambda: self._waiting)
            end = time.monotonic() + self._limits.wait_seconds
            self._changed.wait_for(lambda: len(self._waiting) >= most, max(0.0, end - time.monotonic()))
            shape, batch = self._waiting[0].sample.pixels.shape, list[_Entry]()
            while self._waiting and len(batch) < most and self._waiting[0].sample.pixels.shape == shape:
                batch.append(self._waiting.popleft())
            return batch


def outcomes_of(reward: NamedReward, samples: Sequence[Sample]) -> list[Outcome]:
    """Return each sample's score, or the error that it alone gives: a batch that fails is halved until it is known."""
    try:
        scores = score(
            reward,
            Image(),
            as_images([sample.pixels for sample in samples]),
            [sample.prompt for sample in samples],
            [sample.metadata for sample in samples],
        )
        return [float(value) for value in scores]
    except BaseException as error:  # also SystemExit: a reward must not end the thread that others wait for
        if len(samples) == 1:
            name = type(error).__name__
            text = str(error) if isinstance(error, RewardError) else f"Reward '{reward.name}' raised {name}: {error}"
            return [RewardError(text)]
    middle = len(samples) // 2
    return outcomes_of(reward, samples[:middle]) + outcomes_of(reward, samples[middle:])


def as_images(pixels: Sequence[npt.NDArray[np.uint8]]) -> Tensor:
    """Return pictures `(H, W, 3)` of one size as images `(B, 3, H, W)`, float32 in [0, 1]."""
    import torch

    levels_BCHW = np.stack(pixels).transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(levels_BCHW, dtype=np.float32) / np.float32(255))
