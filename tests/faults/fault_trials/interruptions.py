"""Trials 1 and 2: a run that is killed or told to stop, anywhere, goes on as if nothing had happened."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from quiet_runs import resume, train, train_or_resume
from tiny_run import Signalling, difference, save_model, tiny_run

from ddpo.algorithms import DDPOImportanceSampling
from ddpo.config import TrainConfig
from ddpo.report.progress import QuietDisplay
from ddpo.runs.checkpoints import Checkpoints
from ddpo.runs.folder import RunFolder
from fault_trials.processes import forked
from fault_trials.registry import Cases, trial

SEED = 1
REWARD = f"{Path(__file__).parents[2] / 'support' / 'tiny_run.py'}:by_content"
VARIANTS: dict[str, dict[str, Any]] = {
    "ddpo-is": {},
    "rwr-sparse with LoRA": {
        "algorithm": {"name": "rwr-sparse", "samples_per_update": 4, "percentile": 0.5, "fresh_optimizer": False},
        "updates_per_iteration": 3,
        "lora": {"rank": 2},
        "combined": True,
    },
}


def _config(model: Path, output: Path, variant: str) -> TrainConfig:
    settings = dict(VARIANTS[variant])
    if settings.pop("combined", False):
        reward: Any = {
            "name": "sum",
            "rewards": [
                {"name": REWARD, "normalise": "z-score"},
                {"name": "jpeg-compressibility", "normalise": "rank"},
            ],
        }
    else:
        reward = REWARD
    return tiny_run(model, output, reward=reward, **settings)


@trial(
    1,
    "kill",
    "A run that is killed (SIGKILL) anywhere and resumed ends with the same weights, bit for bit, and every iteration "
    "once.",
    fast=3,
    full=20,
)
def killed_runs(size: int, folder: Path) -> Cases:
    """Kill a run at `size` random moments of its life, for each variant, and give the same command again."""
    model, draw = save_model(folder / "model"), random.Random(SEED)
    for variant in VARIANTS:
        start = time.monotonic()
        whole = train(_config(model, folder / f"whole {variant}", variant)).folder
        seconds = time.monotonic() - start
        for point in range(size):
            moment = seconds * (point + draw.random()) / size
            config = _config(model, folder / f"{variant} {point}", variant)
            code = forked(lambda c=config: _train(c, QuietDisplay()), kill_after=moment)
            case = f"{variant}, kill {point + 1}, at {moment / seconds:.0%} of the run"
            yield case, _lost_by_kill(code, config, whole)


def _lost_by_kill(code: int, config: TrainConfig, whole: RunFolder) -> str | None:
    if code not in (0, -signal.SIGKILL):
        return f"the run ended by itself with {code}"
    return difference(train_or_resume(config).folder, whole)


def _train(config: TrainConfig, display: QuietDisplay) -> int:
    interrupted = train(config, display=display).interrupted
    return 0 if interrupted is None else interrupted.exit_code


PHASES = {"fixed samples": 2, "rollout": 3, "reward": 4, "update": 5, "checkpoint": 2}
"""A report of each phase, in the second iteration or after it, at which the signal comes."""


@trial(
    2,
    "signals",
    "SIGTERM, SIGINT and SIGUSR1 end a run within a microbatch and a save, with exit code 128 + signal; it goes on "
    "exactly.",
    fast=1,
    full=3,
)
def signalled_runs(size: int, folder: Path) -> Cases:
    """Send the first `size` of the three signals in every phase; each in the middle of an update too."""
    model, variant = save_model(folder / "model"), "ddpo-is"
    whole = train(_config(model, folder / "whole", variant)).folder
    numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]
    for number in numbers[:size]:
        for phase, at in PHASES.items():
            config = _config(model, folder / f"{number.name} {phase}", variant)
            display = Signalling(phase, at, number)
            code = forked(lambda c=config, d=display: _train(c, d))
            yield f"{number.name} in phase {phase}", _lost_by_signal(code, number, config, whole)
    for number in numbers:
        config = _config(model, folder / f"{number.name} microbatch", variant)
        code = forked(lambda c=config, n=number: _train_signalled_in_a_microbatch(c, n))
        yield f"{number.name} in a microbatch", _lost_by_signal(code, number, config, whole)


def _lost_by_signal(code: int, number: signal.Signals, config: TrainConfig, whole: RunFolder) -> str | None:
    if code != 128 + number:
        return f"exit code {code}"
    assert config.output is not None
    if not Checkpoints(RunFolder(config.output).checkpoints).all():
        return "no checkpoint"
    return difference(resume(config.output).folder, whole)


def _train_signalled_in_a_microbatch(config: TrainConfig, number: signal.Signals) -> int:
    """Train with a signal inside the tenth loss with gradient; 98 when another one is evaluated behind it."""
    loss: Callable[..., Any] = DDPOImportanceSampling.loss
    calls: list[int] = []

    def signalling(self: DDPOImportanceSampling, *arguments: Any) -> Any:
        if torch.is_grad_enabled():
            calls.append(1)
        if len(calls) == 10:
            signal.raise_signal(number)
        return loss(self, *arguments)

    with mock.patch.object(DDPOImportanceSampling, "loss", signalling):
        code = _train(config, QuietDisplay())
    return code if len(calls) == 10 else 98
