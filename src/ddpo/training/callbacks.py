"""Callbacks: what is called after each iteration, with its metrics and fixed samples and the right to stop.

A user's callback is any function of a `Moment`, in Python or by name in a configuration. Tracking, early stopping and
checkpoints are callbacks too.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ddpo.config.conditions import parse_condition
from ddpo.core.policy import Policy
from ddpo.evaluation.fixed_samples import Evaluation
from ddpo.runs.folder import RunFolder
from ddpo.runtime.errors import ConfigError, DDPOError, nearest
from ddpo.runtime.plugins import describe, load_object
from ddpo.runtime.processes import Runtime
from ddpo.training.checkpointing import Checkpointer
from ddpo.training.coordination import Coordinator
from ddpo.training.iteration import Metrics

log = logging.getLogger(__name__)


@dataclass
class Moment:
    """The end of an iteration."""

    iteration: int
    """1 for the first."""
    metrics: Metrics
    """As in metrics.jsonl (docs/metrics.md)."""
    evaluation: Evaluation | None
    """The fixed samples, where they were drawn after this iteration."""
    policy: Policy
    folder: RunFolder
    is_last: bool
    """Whether no iteration follows."""
    reason: str | None = field(default=None, init=False)
    """Why the run ends early, if it does."""

    def stop(self, reason: str) -> None:
        """End the run after this iteration, as if it had been the last."""
        self.reason = self.reason or reason

    @property
    def ends(self) -> bool:
        """Whether the run ends with this iteration."""
        return self.is_last or self.reason is not None


Callback = Callable[[Moment], object]


class StopWhen:
    """Ends a run once one of its conditions holds."""

    def __init__(self, conditions: Sequence[str]) -> None:
        self._conditions = [parse_condition(condition) for condition in conditions]
        self._seen: set[str] = set()
        self._warned: set[str] = set()

    def __call__(self, moment: Moment) -> None:
        """Look at the iteration's metrics."""
        self._seen |= moment.metrics.keys()
        for condition in self._conditions:
            if condition.holds(moment.metrics):
                moment.stop(f"{condition} ({moment.metrics[condition.metric]:.4g})")
            elif moment.evaluation is not None and condition.metric not in self._seen | self._warned:
                self._warned.add(condition.metric)
                hint = nearest(condition.metric, self._seen)
                log.warning(
                    "stop_when: nothing measures '%s', so '%s' never holds.%s", condition.metric, condition, hint
                )


class OnMain:
    """What the main process decides: its callbacks' wish to stop, or failure, every process hears of.

    Processes measure times of their own, and noisy rewards: each for itself would end at another iteration.
    """

    def __init__(self, callbacks: Sequence[tuple[str, Callback]], coordinator: Coordinator) -> None:
        """`callbacks` with the names that messages give them."""
        self._callbacks, self._coordinator = callbacks, coordinator

    def __call__(self, moment: Moment) -> None:
        """Raises ConfigError, in every process, when a callback fails."""
        if not self._callbacks:
            return
        problem: DDPOError | None = None
        if self._coordinator.runtime.is_main:
            try:
                for name, callback in self._callbacks:
                    self._call(name, callback, moment)
            except DDPOError as error:
                problem = error
        self._coordinator.barrier(problem)
        moment.reason = self._coordinator.runtime.gather([moment.reason])[0]

    @staticmethod
    def _call(name: str, callback: Callback, moment: Moment) -> None:
        try:
            callback(moment)
        except DDPOError:
            raise
        except Exception as error:
            raise ConfigError(f"callbacks: '{name}' raised {describe(error)}") from error


class SaveCheckpoints:
    """Saves every `every` iterations, at the end, and, with `keep_best`, whenever the fixed samples score highest."""

    def __init__(
        self,
        checkpointer: Checkpointer,
        every: int | None,
        keep_best: bool,
        show: Callable[[str, int, int], None],
        runtime: Runtime,
    ) -> None:
        """`show` is told that a checkpoint is being written."""
        self._checkpointer, self._every, self._keep_best = checkpointer, every, keep_best
        self._show, self._runtime = show, runtime

    def __call__(self, moment: Moment) -> None:
        """Save if a checkpoint is due."""
        best = self._new_best(moment.evaluation) if self._keep_best else None
        best = self._runtime.gather([best])[0]  # rewards may be noisy: the main process decides for all
        due = self._every is not None and (moment.ends or moment.iteration % self._every == 0)
        if due or best is not None:
            self._show("checkpoint", 0, 1)
            self._checkpointer.save(best=best, ended_early=moment.reason)

    def _new_best(self, evaluation: Evaluation | None) -> float | None:
        if evaluation is None:
            return None
        reward = next(iter(evaluation.means.values()))
        before = self._checkpointer.best
        return reward if before is None or reward > before else None


def load_callback(spec: str | Mapping[str, Any]) -> Callback:
    """Return the callback that `path/to/file.py:name` stands for, or `{name: ..., option: value}`.

    A class is called with the options to make the callback; a function gets them besides the `Moment`.

    Raises:
        ConfigError: it cannot be loaded or made.
    """
    options = dict(spec) if isinstance(spec, Mapping) else {"name": spec}
    name = str(options.pop("name", ""))
    found = load_object(name, "callbacks:", ConfigError)
    try:
        made = found(**options) if isinstance(found, type) else functools.partial(found, **options)
    except Exception as error:
        raise ConfigError(f"callbacks: '{name}' raised {describe(error)}") from error
    if not callable(made):
        raise ConfigError(f"callbacks: '{name}' is not a function of a Moment, nor a class whose objects are.")
    return made
