"""Scoring an iteration's samples while the next are drawn: threads, order, time limits, and what an error does."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from ddpo.config.tree import ScoringConfig
from ddpo.media import Medium
from ddpo.prompts import Prompt
from ddpo.rewards import LoadedReward, score_components
from ddpo.rewards.contract import Array
from ddpo.runtime.errors import RewardError

T = TypeVar("T")
log = logging.getLogger(__name__)
Scores = dict[str, Array]
"""Scores `(B,)` of some samples by component; NaN for a sample whose group is left out."""
WAIT = 0.2
"""Seconds between two polls of whether the run was told to stop, while it waits for a reward."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds before a failed call is made again; each pause is twice as long as the one before."""


@dataclass(frozen=True)
class Part(Generic[T]):
    """Some consecutive samples of an iteration."""

    content: T
    """What the rewards do not see; handed back with the scores."""
    samples: Tensor
    """`(B, ...)` on the CPU, decoded."""
    prompts: Sequence[Prompt]
    """Their `B` prompts."""
    first: int
    """Index of the first of them among the iteration's samples."""

    def rows(self, start: int, stop: int) -> Part[T]:
        """Return the samples from `start` up to `stop`."""
        return Part(self.content, self.samples[start:stop], self.prompts[start:stop], self.first + start)


class Scoring(Generic[T]):
    """Scores parts in threads of its own and returns them in the order they came.

    At most `workers` parts are held: handing in another one waits for the oldest. A thread that a reward never comes
    back to does not keep the program from ending.
    """

    def __init__(
        self,
        reward: LoadedReward,
        medium: Medium,
        settings: ScoringConfig,
        *,
        group_size: int,
        device: torch.device,
        poll: Callable[[], None],
    ) -> None:
        """`group_size` consecutive samples share a drawn prompt and are left out together; `device` is the policy's.

        `poll` is called while waiting and may raise to give up.
        """
        self._reward, self._medium, self._settings = reward, medium, settings
        self._group_size, self._device, self._poll = group_size, device, poll
        self._tasks: queue.SimpleQueue[tuple[Part[T], Future[Scores]] | None] = queue.SimpleQueue()
        self._threads = 0
        self._waiting: deque[tuple[Part[T], Future[Scores]]] = deque()

    def add(self, part: Part[T]) -> Iterator[tuple[T, Scores]]:
        """Hand in a part; yield the parts that must be finished before there is room for it.

        Raises RewardError as `finish` does.
        """
        while len(self._waiting) >= self._settings.workers:
            yield self._oldest()
        self._waiting.append((part, self._begin(part)))

    def finish(self) -> Iterator[tuple[T, Scores]]:
        """Yield the parts that are left, each when it is scored.

        Raises:
            RewardError: the reward failed and `on_error` does not let the run go on.
        """
        while self._waiting:
            yield self._oldest()

    def close(self) -> None:
        """Let the threads end once they are back from their rewards."""
        for _ in range(self._threads):
            self._tasks.put(None)
        self._threads = 0

    def _oldest(self) -> tuple[T, Scores]:
        part, future = self._waiting[0]
        scores = self._scores(part, future)
        self._waiting.popleft()
        return part.content, scores

    def _scores(self, part: Part[T], future: Future[Scores]) -> Scores:
        """Return a part's scores after whatever `on_error` asks for."""
        try:
            return self._result(future, part)
        except RewardError as error:
            match self._settings.on_error:
                case "retry":
                    return self._again(part, error)
                case "skip-group":
                    return self._without_failing_groups(part, error)
            raise

    def _again(self, part: Part[T], error: RewardError) -> Scores:
        pause = FIRST_PAUSE
        for attempt in range(1, self._settings.retries + 1):
            log.warning("%s Trying again (%d of %d).", error, attempt, self._settings.retries)
            self._sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            try:
                return self._result(self._begin(part), part)
            except RewardError as failed:
                error = failed
        raise error

    def _without_failing_groups(self, part: Part[T], error: RewardError) -> Scores:
        """Score each drawn prompt's samples on their own and give NaN to those that fail."""
        log.warning("%s Scoring these samples prompt by prompt.", error)
        rows = []
        for start, stop in _groups(part.first, len(part.prompts), self._group_size):
            group = part.rows(start, stop)
            try:
                rows.append(self._result(self._begin(group), group))
            except RewardError as failed:
                log.warning("Left out: %s", failed)
                rows.append({key: np.full(stop - start, np.nan) for key in self._reward.components})
        return {key: np.concatenate([row[key] for row in rows]) for key in self._reward.components}

    def _begin(self, part: Part[T]) -> Future[Scores]:
        if self._threads < self._settings.workers:
            self._threads += 1
            threading.Thread(target=self._work, name="reward", daemon=True).start()
        future: Future[Scores] = Future()
        self._tasks.put((part, future))
        return future

    def _work(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)  # a thread begins on the first GPU, whichever is the process's
        while (task := self._tasks.get()) is not None:
            part, future = task
            outcome = self._outcome(part)
            if not future.set_running_or_notify_cancel():
                return  # it was given up meanwhile: another thread has taken this one's place
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    def _outcome(self, part: Part[T]) -> Scores | BaseException:
        texts, metadata = [prompt.text for prompt in part.prompts], [prompt.metadata for prompt in part.prompts]
        try:
            return score_components(self._reward, self._medium, part.samples, texts, metadata, first_index=part.first)
        except BaseException as error:
            return error

    def _result(self, future: Future[Scores], part: Part[T]) -> Scores:
        """Return what a thread found, waiting for as long as the time limit allows."""
        limit = self._settings.timeout
        start = time.monotonic()
        while True:
            if not future.done():
                self._poll()
            left = WAIT if limit is None else min(WAIT, limit - (time.monotonic() - start))
            with suppress(TimeoutError):  # the wait's: one of the reward's own is a RewardError
                return future.result(timeout=max(left, 0.0))
            if limit is not None and time.monotonic() - start >= limit and future.cancel():
                self._threads -= 1  # its thread is given up, another one takes the place
                last = part.first + len(part.prompts) - 1
                raise RewardError(
                    f"Reward '{self._reward.name}' did not score samples {part.first} to {last} within {limit:g} s; "
                    "raise scoring.timeout if it is only slow."
                )

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._poll()
            time.sleep(min(WAIT, left))


def _groups(first: int, number: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield start and stop of the groups of `size` samples, counted from the iteration's first, within a part."""
    start = 0
    while start < number:
        stop = min(number, start + size - (first + start) % size)
        yield start, stop
        start = stop
