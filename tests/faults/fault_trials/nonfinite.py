"""Trial 8: a number that is not finite, in a weight, a sample or a gradient, never reaches weights or moments."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from iterations import trainer_of
from mixture import TIMESTEPS, MixturePolicy, position
from torch import Tensor

from ddpo.runtime.errors import DivergenceError
from ddpo.training.iteration import Metrics
from ddpo.training.trainer import Trainer
from fault_trials.refusals import flaw_of
from fault_trials.registry import Cases, trial
from fault_trials.toy import toy_policy

PROMPTS = [f"prompt {index}" for index in range(8)]
ITERATION = 2
"""The iteration that is disturbed: the optimizer has moments then."""
ALGORITHMS: dict[str, dict[str, Any]] = {
    "ddpo-is": {"algorithm": {"name": "ddpo-is", "clip_nats": 0.2}, "updates_per_iteration": 2},
    "ddpo-sf": {"algorithm": "ddpo-sf"},
    "rwr": {
        "algorithm": {"name": "rwr", "samples_per_update": 16, "fresh_optimizer": False},
        "updates_per_iteration": 2,
    },
}
VALUES = {"NaN": math.nan, "infinity": math.inf, "minus infinity": -math.inf}


@dataclass
class Disturbance:
    """What is not finite, and where. Its method is called at its moment and says what the error has to name."""

    value: float
    place: int
    """Decides sample, timestep and row."""
    says: list[str] = field(default_factory=list)
    done: bool = False

    @property
    def timestep(self) -> int:
        """Of the disturbed step."""
        return TIMESTEPS - 1 - self.place % TIMESTEPS

    @property
    def sample(self) -> int:
        """Of the disturbed trajectory."""
        return self.place % len(PROMPTS)

    # --- between two iterations ---

    def weight(self, trainer: Trainer) -> None:
        """In one weight, before the samples are drawn."""
        self._set(_policy(trainer).weights.data[self.timestep], slice(0, 1))
        self.says += ["Sample 0, prompt", f"after timestep {self.timestep};", "neither is a weight"]

    def latent(self, trainer: Trainer) -> None:
        """In one sample, while it is drawn."""
        policy, predict, calls = _policy(trainer), _policy(trainer).predict, list[int]()
        size = trainer.config.batch_size

        def predicted(x: Tensor, time_B: Tensor, conditioning: Any, *, guided: bool) -> Tensor:
            prediction = predict(x, time_B, conditioning, guided=guided)
            if not torch.is_grad_enabled() and int(time_B[0]) == self.timestep:
                calls.append(1)
                if len(calls) == 1 + self.sample // size:
                    self._set(prediction, slice(self.sample % size, self.sample % size + 1))
            return prediction

        policy.predict = predicted  # type: ignore[method-assign]
        self.says += [f"Sample {self.sample}, prompt", f"after timestep {self.timestep};", "the weights are:"]

    # --- between two updates ---

    def every_weight(self, trainer: Trainer) -> None:
        """In all weights, after the samples were drawn."""
        self._set(_policy(trainer).weights.data, slice(None))
        self.says += ["the loss is not finite for sample", "at timestep", "no weight was changed"]

    def stored(self, trainer: Trainer) -> None:
        """In one sample, after it was drawn and scored."""
        assert trainer.iteration is not None
        self._set(trainer.iteration.trajectory().states, slice(self.sample, self.sample + 1))
        self.says += [f"the loss is not finite for sample {self.sample}, prompt", "no weight was changed"]

    def prediction(self, trainer: Trainer) -> None:
        """In what the network gives for one pair of an update."""
        self._once_with_gradient(trainer, self._spoil_prediction)

    def gradient_of_a_pair(self, trainer: Trainer) -> None:
        """In the gradient of one pair of an update."""
        self._once_with_gradient(trainer, self._spoil_gradient)

    def gradient(self, trainer: Trainer) -> None:
        """In the whole gradient."""
        handle = _policy(trainer).weights.register_hook(lambda gradient: (handle.remove(), gradient * self.value)[1])
        self.says += ["the gradient is not finite", "no weight was changed"]

    def _set(self, tensor: Tensor, rows: slice) -> None:
        tensor[rows] = self.value
        self.done = True

    def _once_with_gradient(self, trainer: Trainer, spoil: Callable[[Tensor, Tensor, int], Tensor]) -> None:
        policy, predict = _policy(trainer), _policy(trainer).predict

        def predicted(x: Tensor, time_B: Tensor, conditioning: Any, *, guided: bool) -> Tensor:
            prediction = predict(x, time_B, conditioning, guided=guided)
            if self.done or not torch.is_grad_enabled():
                return prediction
            self.done = True
            return spoil(prediction, time_B, self.place % len(x))

        policy.predict = predicted  # type: ignore[method-assign]

    def _spoil_prediction(self, prediction: Tensor, timestep_B: Tensor, row: int) -> Tensor:
        self.says += ["the loss is not finite for sample", f"at timestep {int(timestep_B[row])};", "no weight was"]
        return prediction + torch.zeros_like(prediction).index_fill(0, torch.tensor([row]), self.value)

    def _spoil_gradient(self, prediction: Tensor, timestep_B: Tensor, row: int) -> Tensor:
        self.says += ["the gradient is not finite", "no weight was changed"]
        prediction.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([row]), self.value))
        return prediction


BEFORE = {"a weight": Disturbance.weight, "a latent": Disturbance.latent}
DURING = {
    "every weight": Disturbance.every_weight,
    "a stored sample": Disturbance.stored,
    "a prediction": Disturbance.prediction,
    "the gradient of a pair": Disturbance.gradient_of_a_pair,
    "the gradient": Disturbance.gradient,
}
PASSING = ("a prediction", "the gradient of a pair")
"""What disturbs a single update."""


@trial(
    8,
    "nonfinite",
    "NaN or an infinity in a weight, a sample or a gradient stops the run before the optimizer: weights and moments "
    "stay the same bits; or the update is skipped and counted.",
    fast=1,
    full=40,
)
def not_finite(size: int, folder: Path) -> Cases:
    """Each value in each thing of each algorithm, at `size` samples and timesteps and in the first or last update."""
    del folder
    for algorithm in ALGORITHMS:
        for place in range(size):
            place_here = 7 * place + 3  # 7 and the 20 timesteps have no common divisor
            for name, value in VALUES.items():
                for what, disturb in {**BEFORE, **DURING}.items():
                    run = _Run(algorithm, Disturbance(value, place_here))
                    case = f"{algorithm}, {name} in {what}, place {place_here}"
                    yield case, run.lost_by_stopping(disturb, before=what in BEFORE)
                for what in PASSING:
                    run = _Run(algorithm, Disturbance(value, place_here), on_nonfinite="skip")
                    yield f"{algorithm}, {name} in {what}, place {place_here}, skipped", run.lost_by_skipping(what)


class _Run:
    """Three iterations, the second of them disturbed."""

    def __init__(self, algorithm: str, disturbance: Disturbance, **changes: Any) -> None:
        settings = {
            "samples_per_iteration": len(PROMPTS),
            "batch_size": 4,
            "iterations": ITERATION + 1,
            "advantage": "batch",
            "learning_rate": 1e-3,
        }
        self._trainer = trainer_of(toy_policy(), position, PROMPTS, settings | ALGORITHMS[algorithm] | changes)
        self._disturbance = disturbance
        self._at = disturbance.place % 2 * (self._trainer.config.updates - 1)
        """Updates of the iteration that are made before."""
        self._states: list[dict[str, Tensor]] = []
        """Weights and moments before each update of the disturbed iteration, and behind the last."""

    def lost_by_stopping(self, disturb: Callable[[Disturbance, Trainer], None], *, before: bool) -> str | None:
        """Return what was lost although the run was to stop; None if nothing was."""
        if disturb is Disturbance.stored:
            self._at = 0  # a sample is in one update of an iteration alone, whichever
        try:
            self._train(disturb, before=before)
        except DivergenceError as error:
            return self._flaw_of(str(error)) or _differing(self._states[-1], self._state())
        return "the run went on"

    def lost_by_skipping(self, what: str) -> str | None:
        """Return what was lost although the update was to be skipped; None if nothing was."""
        total = self._trainer.config.updates
        try:
            metrics = self._train(DURING[what], before=False)
        except DivergenceError as error:  # right where the iteration has no other update
            flaw = flaw_of(str(error)) or _differing(self._states[0], self._state())
            return flaw if total == 1 else f"the run ended: {error}"
        if total == 1:
            return "an iteration without an update went by"
        skipped = [one["updates_skipped"] for one in metrics]
        if skipped != [0, 1, 0]:
            return f"updates_skipped is {skipped}"
        try:
            json.dumps(metrics, allow_nan=False)
        except ValueError:
            return f"metrics that are not finite: {[key for key, value in metrics[1].items() if value != value]}"
        changed = [_differing(*pair) is not None for pair in zip(self._states, self._states[1:], strict=False)]
        expected = [update != self._at for update in range(total)]
        return None if changed == expected else f"weights changed in updates {changed}, not {expected}"

    def _train(self, disturb: Callable[[Disturbance, Trainer], None], *, before: bool) -> list[Metrics]:
        def progress(phase: str, done: int, total: int) -> None:
            if phase == "update" and self._trainer.finished == ITERATION - 1:
                self._states.append(self._state())
                if done == self._at and not before:
                    disturb(self._disturbance, self._trainer)
                    self._states[-1] = self._state()

        made = []
        for metrics in self._trainer.train(progress):
            made.append(metrics)
            if before and self._trainer.finished == ITERATION - 1:
                disturb(self._disturbance, self._trainer)
                self._states.append(self._state())
        return made

    def _flaw_of(self, sentence: str) -> str | None:
        missing = [words for words in self._disturbance.says if words not in sentence]
        if missing or not self._disturbance.says:
            return f"does not say {missing}: {sentence}"
        named = re.search(r"ample (\d+), prompt '(.*?)'", sentence)
        if named is not None and self._prompts[int(named[1])] != named[2]:
            return f"names a sample and the prompt of another: {sentence}"
        return flaw_of(sentence)

    @property
    def _prompts(self) -> list[str]:
        assert self._trainer.iteration is not None
        return [prompt.text for prompt in self._trainer.iteration.prompts]

    def _state(self) -> dict[str, Tensor]:
        """Return copies of the weights and the optimizer's moments."""
        weights = _policy(self._trainer).weights
        moments = self._trainer.optimizer.state[weights]
        return {"weights": weights.detach().clone()} | {name: value.clone() for name, value in moments.items()}


def _policy(trainer: Trainer) -> MixturePolicy:
    assert isinstance(trainer.policy, MixturePolicy)
    return trainer.policy


def _differing(before: dict[str, Tensor], now: dict[str, Tensor]) -> str | None:
    """Return the names of what is not the same, bit for bit; None if all is."""
    if before.keys() != now.keys():
        return f"there are {sorted(now)}, not {sorted(before)}"
    names = [name for name in now if not torch.equal(before[name].view(torch.int32), now[name].view(torch.int32))]
    return f"changed: {', '.join(names)}" if names else None
