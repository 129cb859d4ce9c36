"""A trainer without a run folder, and an iteration of it between its two halves."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from ddpo.config import parse_config
from ddpo.core.policy import Policy
from ddpo.prompts import from_list
from ddpo.rewards import load_reward
from ddpo.runtime.processes import Runtime
from ddpo.training.iteration import Iteration
from ddpo.training.trainer import Trainer


def trainer_of(policy: Policy, reward: Any, prompts: list[Any], settings: dict[str, Any]) -> Trainer:
    """Return a trainer of `policy` alone in its process."""
    runtime = Runtime(device="cpu", threads=1)
    return Trainer(parse_config(settings), policy, load_reward(reward), from_list(prompts), runtime)


def collected(trainer: Trainer) -> Iteration:
    """Return the trainer's next iteration once its samples have their credit, before the first update."""

    def progress(phase: str, done: int, total: int) -> None:
        if phase == "update":
            raise _Collected

    with suppress(_Collected):
        next(trainer.train(progress))
    assert trainer.iteration is not None
    return trainer.iteration


def all_metrics(trainer: Trainer) -> list[dict[str, float]]:
    """Return the metrics of the iterations that are left."""
    return list(trainer.train(lambda phase, done, total: None))


class _Collected(Exception):  # noqa: N818 - no error
    pass
