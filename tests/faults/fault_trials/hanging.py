"""Trial 7: a reward that never comes back is waited for as long as `scoring.timeout` says, and nothing is made up."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from iterations import collected, trainer_of
from mixture import position
from torch import Tensor

from ddpo.runtime.errors import RewardError
from ddpo.training.trainer import Trainer
from fault_trials.refusals import flaw_of
from fault_trials.registry import Cases, trial
from fault_trials.toy import toy_policy

SAMPLES, GROUP, BATCH = 12, 4, 6
"""Of an iteration; the second group of four is scored in both of its parts."""
TIMEOUT = 1.0
"""Seconds: long for the reward of a toy, also on a busy machine."""


@trial(
    7,
    "hanging",
    "A reward that hangs stops the run, is asked again, or costs its prompt's samples, as scoring.on_error says; the "
    "others keep their own scores, and none is made up.",
    fast=1,
    full=12,
)
def hanging_rewards(size: int, folder: Path) -> Cases:
    """Hang on each of `size` samples in turn: once, and for ever; with every `on_error`, on one thread and on two."""
    del folder
    drawn, scores = _undisturbed()
    with mock.patch("ddpo.training.scoring.FIRST_PAUSE", 0.0):
        for index in range(size):
            sample = (5 + index) % SAMPLES
            for workers in (1, 2):
                for on_error, times in (("stop", 1), ("retry", 1), ("retry", 9), ("skip-group", 9)):
                    hanging = _Hanging(drawn[sample], times)
                    scoring = {"on_error": on_error, "retries": 1, "timeout": TIMEOUT, "workers": workers}
                    trainer = _trainer(hanging, scoring)
                    case = f"sample {sample}, {times} times, {on_error}, {workers} threads"
                    yield case, _lost(trainer, hanging, sample, scores)
                    hanging.release.set()


class _Hanging:
    """The reward of the toy; hangs so many times when it is asked about one picture."""

    def __init__(self, picture: Tensor, times: int) -> None:
        self._picture, self.times, self.release = picture, times, threading.Event()
        self._lock = threading.Lock()

    def __call__(self, images: Tensor, prompts: list[str], metadata: list[dict[str, Any]]) -> Tensor:
        asked = any(torch.equal(image, self._picture) for image in images)
        with self._lock:
            self.times -= asked
            hangs = asked and self.times >= 0
        if hangs:
            self.release.wait()
        return position(images, prompts, metadata)


def _trainer(reward: Any, scoring: dict[str, Any]) -> Trainer:
    settings = {
        "samples_per_iteration": SAMPLES,
        "samples_per_prompt": GROUP,
        "batch_size": BATCH,
        "iterations": 1,
        "advantage": "batch",
        "algorithm": "ddpo-sf",
        "scoring": scoring,
    }
    return trainer_of(toy_policy(), reward, ["up", "down", "left", "right"], settings)


def _undisturbed() -> tuple[list[Tensor], list[float]]:
    """Return the pictures of the iteration, as a reward sees them, and their scores."""
    drawn: list[Tensor] = []

    def seeing(images: Tensor, prompts: list[str], metadata: list[dict[str, Any]]) -> Tensor:
        drawn.extend(images)
        return position(images, prompts, metadata)

    return drawn, collected(_trainer(seeing, {})).scores["seeing"]


def _lost(trainer: Trainer, hanging: _Hanging, sample: int, scores: list[float]) -> str | None:
    on_error = trainer.config.scoring.on_error
    ends = on_error == "stop" or (on_error == "retry" and hanging.times > 1)
    try:
        iteration = collected(trainer)
    except RewardError as error:
        first = sample // BATCH * BATCH
        named = f"samples {first} to {first + BATCH - 1} within {TIMEOUT:g} s" in str(error)
        return flaw_of(str(error)) if ends and named else f"ended: {error}"
    if ends:
        return "the run went on"
    left_out = sample // GROUP if on_error == "skip-group" else None
    kept = [index for index in range(SAMPLES) if index // GROUP != left_out]
    (found,) = iteration.scores.values()
    if [found[index] for index in kept] != [scores[index] for index in kept]:
        return f"scores are {found}, not {scores}"
    assert iteration.credit_S is not None
    counted = iteration.credit_S.nonzero()[0].tolist()
    return None if counted == kept else f"the samples {counted} have an advantage, not {kept}"
