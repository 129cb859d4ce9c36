"""The second half of an iteration: updates of the policy on its samples (paper sections C.2, C.3, F.1, F.2)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice
from operator import itemgetter
from typing import Any

import numpy as np
import torch

from ddpo.algorithms import WeightedRegression
from ddpo.config import TrainConfig
from ddpo.core.minibatches import DenoisingBatch, denoising_updates, passes, updates
from ddpo.core.policy import Policy
from ddpo.core.randomness import Stream, derive_seed
from ddpo.core.trajectory import Minibatch
from ddpo.runtime.errors import DivergenceError, ReplayError
from ddpo.training.clean_samples import CleanSamples
from ddpo.training.control import Control
from ddpo.training.experience import Experience, Metrics, Progress, Trajectories
from ddpo.training.metrics import LOSS, PairMetrics, averages
from ddpo.training.stopwatch import Stopwatch


class Updater:
    """Makes the updates of an iteration with AdamW."""

    def __init__(self, config: TrainConfig, policy: Policy, control: Control) -> None:
        self._config, self._policy, self._control, self._runtime = config, policy, control, control.runtime
        self.parameters = list(policy.parameters())
        self.optimizer = self.new_optimizer()

    def new_optimizer(self) -> torch.optim.AdamW:
        """Return AdamW over the trainable parameters, its moments at zero (F.6)."""
        settings = self._config.optimizer
        return torch.optim.AdamW(
            self.parameters,
            lr=self._config.learning_rate,
            betas=(settings.beta1, settings.beta2),
            eps=settings.epsilon,
            weight_decay=settings.weight_decay,
        )

    def update(self, experience: Experience, progress: Progress) -> Metrics:
        """Make the updates that are left: each accumulates the gradient of its whole minibatch (F.1, F.2).

        Raises:
            Interrupted: the run was told to stop; `experience.updates` says how far it is.
            ReplayError: replaying the stored steps does not give the log-probabilities of the rollout.
            DivergenceError: an update is not finite; the weights are those of the update before.
        """
        watch, state = Stopwatch(experience.metrics), experience.updates
        total = self._config.updates * self._config.inner_epochs
        algorithm = self._config.algorithm
        if isinstance(algorithm, WeightedRegression) and algorithm.fresh_optimizer and not state.done:
            self.optimizer = self.new_optimizer()
        progress("update", state.done, total)
        for minibatch in islice(self.minibatches(experience), state.done, None):
            pairs = self._control.fitting(partial(self._accumulate, minibatch))
            norm = self._step(experience, pairs)
            state.norms += [] if norm is None else [norm]
            sums = pairs.sums()
            state.sums += sums if np.isfinite([total for _, total, _ in sums]).all() else []  # else it is skipped
            state.done += 1
            watch.lap("time/update")
            progress("update", state.done, total)
            if state.done < total:
                self._control.meet()
        if not state.norms and self._config.on_nonfinite == "skip" and self._runtime.precision != "fp16":
            raise DivergenceError(f"No update of iteration {experience.iteration} was finite; lower learning_rate.")
        return {
            **state.start,
            **averages(self._runtime.gather(state.sums)),
            "gradient_norm": float(np.mean(state.norms)) if state.norms else 0.0,
            "updates_skipped": total - len(state.norms),
        }

    def minibatches(self, experience: Experience) -> Iterator[Minibatch | DenoisingBatch]:
        """Yield a minibatch for each update of the iteration."""
        config, samples, credit_B = self._config, experience.samples, experience.credit_B
        assert credit_B is not None
        if isinstance(samples, CleanSamples):
            yield from denoising_updates(
                samples,
                experience.texts,
                credit_B,
                self._policy.schedule,
                number=config.updates,
                size=len(self._runtime.share(config.samples_per_update)),
                generator=self._generator(Stream.DENOISING, experience.iteration, experience.first),
            )
            return
        trajectory = samples.joined()
        for epoch in range(config.inner_epochs):
            yield from updates(
                trajectory,
                credit_B,
                number=config.updates,
                timestep_fraction=config.timestep_fraction,
                generator=self._generator(Stream.SHUFFLE, experience.iteration, epoch),
            )

    def _generator(self, stream: Stream, *position: int) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(self._config.seed, stream, *position))

    def _accumulate(self, minibatch: Minibatch | DenoisingBatch) -> PairMetrics:
        """Add up the gradient of a whole minibatch, a microbatch at a time."""
        algorithm: Any = self._config.algorithm  # each takes its own kind of minibatch
        self.optimizer.zero_grad(set_to_none=True)
        pairs = PairMetrics(self._steps)
        for batch in passes(minibatch, self._control.batch_size):
            self._control.look()
            loss, metrics = algorithm.loss(self._policy, batch)
            self._runtime.backward(loss * (len(batch) / len(minibatch)))
            pairs.add(batch, metrics | {LOSS: loss.expand(len(batch))})
        return pairs

    @property
    def _steps(self) -> int:
        """Steps that metrics tell apart: those with a likelihood, or the timesteps of a regression."""
        if isinstance(self._config.algorithm, WeightedRegression):
            return self._policy.schedule.training_timesteps
        return self._policy.sampler.steps_with_likelihood

    def _timestep(self, step: int) -> int:
        """Return the training timestep of a step, counted from the noisiest."""
        if isinstance(self._config.algorithm, WeightedRegression):
            return self._steps - 1 - step
        return int(self._policy.sampler.grid.timestep_T[step])

    def _step(self, experience: Experience, pairs: PairMetrics) -> float | None:
        """Update the weights and return the gradient's norm; None, with the weights as they were, if it is skipped."""
        state, samples = experience.updates, experience.samples
        try:
            self._check_finite(experience, pairs)
            if not state.start and isinstance(samples, Trajectories):
                state.start = self._check_replay(pairs, samples.joined().dimensions)
            return self._runtime.optimizer_step(self.optimizer, self.parameters, self._config.max_gradient_norm)
        except DivergenceError as error:
            self.optimizer.zero_grad(set_to_none=True)
            where = f"Iteration {experience.iteration}, update {state.done + 1}: {error}"
            if self._config.on_nonfinite == "stop":
                raise DivergenceError(where) from None
            self._control.say(f"{where} It is skipped.")
            return None

    def _check_finite(self, experience: Experience, pairs: PairMetrics) -> None:
        """Raise DivergenceError, naming a sample and its timestep, when a pair's loss or divergence is not finite."""
        texts = experience.texts
        own = [(experience.first + sample, texts[sample], step) for sample, step in pairs.not_finite()]
        broken = self._runtime.gather(own)
        if not broken:
            return
        sample, text, step = broken[0]
        more = f" and {len(broken) - 1} more pairs" if len(broken) > 1 else ""
        raise DivergenceError(
            f"the loss is not finite for sample {sample}, prompt '{text}', at timestep {self._timestep(step)}{more}; "
            "no weight was changed. Lower learning_rate or use precision=fp32."
        )

    def _check_replay(self, pairs: PairMetrics, dimensions: int) -> Metrics:
        """Return the largest |ratio - 1| of pairs replayed before the first update, over all processes.

        Also for each stretch of the denoising run: the last steps are the most sensitive. A sample has so many
        `dimensions`.

        Raises:
            ReplayError: it exceeds the algorithm's tolerance, a tenth of the clip: the update would be noise.
        """
        algorithm: Any = self._config.algorithm
        tolerance = algorithm.ratio_tolerance(dimensions)
        errors = self._runtime.gather(pairs.largest_ratio_errors())
        error, step, _ = max(errors)
        if not error <= tolerance:
            raise ReplayError(
                f"Replay does not reproduce the rollout: before the first update the importance ratio at timestep "
                f"{self._timestep(step)} (step {step + 1} of {len(self._policy.sampler)}) is off by {error:.2g}, above "
                f"{tolerance:.2g}, a tenth of the clip. Use precision=fp32 and compile=false, or a wider clip."
            )
        worst = {f"ratio/max_error_at_start/bucket_{bucket}": 0.0 for _, _, bucket in sorted(errors, key=itemgetter(2))}
        for value, _, bucket in errors:
            name = f"ratio/max_error_at_start/bucket_{bucket}"
            worst[name] = max(worst[name], value)
        return {"ratio/max_error_at_start": error, **worst}
