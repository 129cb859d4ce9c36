"""The training loop: collect samples, update the policy, repeat (paper sections C.2, C.3, F.1 and F.2)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ddpo.algorithms import WeightedRegression
from ddpo.clean_samples import CleanSamples
from ddpo.config import TrainConfig
from ddpo.credit import Credit, component_statistics, reward_statistics
from ddpo.distributed import Runtime
from ddpo.errors import ReplayError, RewardError
from ddpo.metrics import PairMetrics, averages
from ddpo.minibatches import DenoisingBatch, denoising_updates, passes, updates
from ddpo.policy import Policy
from ddpo.prompts import Prompt, PromptSource
from ddpo.randomness import Stream, derive_seed, sample_seeds
from ddpo.rewards import ComponentScores, LoadedReward, combine, score_components
from ddpo.rollout import rollout
from ddpo.trajectory import Minibatch, Trajectory

Array = npt.NDArray[np.float64]
Metrics = dict[str, float]
Progress = Callable[[str, int, int], None]
"""Told the phase, and how much of it is done out of how much."""


PART = 256
"""Samples drawn, decoded and scored at a time: bounds the memory of iterations with thousands."""


@dataclass(frozen=True)
class Experience:
    """What the rollout phase of an iteration leaves for its update phase."""

    samples: Trajectory | CleanSamples
    """This process's samples: their trajectories, or x_0 alone where the algorithm is a regression."""
    prompts: list[str]
    """Their prompts."""
    first: int
    """Index of the first of them among those of all processes."""
    credit_B: torch.Tensor
    """`(B,)` float32: their advantages, or their weights in a regression."""
    metrics: Metrics
    """Reward statistics over all processes, and times."""


class Trainer:
    """Raises the reward of a policy.

    `prompts -> rollout -> decode -> reward -> advantages or weights -> minibatches -> algorithm.loss -> optimizer`.
    """

    def __init__(
        self, config: TrainConfig, policy: Policy, reward: LoadedReward, prompts: PromptSource, runtime: Runtime
    ) -> None:
        """The policy's trainable parameters get a fresh AdamW (F.6)."""
        self.config, self.policy, self.reward, self.prompts, self.runtime = config, policy, reward, prompts, runtime
        self.credit = Credit(config, runtime.processes)
        self.parameters = list(policy.parameters())
        self.optimizer = self.new_optimizer()

    def new_optimizer(self) -> torch.optim.AdamW:
        """Return AdamW over the trainable parameters, its moments at zero."""
        settings = self.config.optimizer
        return torch.optim.AdamW(
            self.parameters,
            lr=self.config.learning_rate,
            betas=(settings.beta1, settings.beta2),
            eps=settings.epsilon,
            weight_decay=settings.weight_decay,
        )

    def train(self, progress: Progress, scratch: Path) -> Iterator[Metrics]:
        """Yield the metrics of each iteration after its last update.

        `scratch` is a folder for the samples of a regression that are more than its memory holds.

        Raises:
            RewardError: the reward failed; nothing was trained on this iteration's samples.
            ReplayError: replaying the stored steps does not give the log-probabilities of the rollout.
            DivergenceError: a gradient is not finite; the weights are those of the update before.
        """
        for iteration in range(1, self.config.iterations + 1):
            experience = self.collect(iteration, scratch, progress)
            metrics = self.update(iteration, experience, progress)
            queries = iteration * self.config.samples_per_iteration
            metrics = {"iteration": iteration, "reward_queries": queries, **experience.metrics, **metrics}
            del experience  # its trajectories need not be there when the next are drawn
            yield metrics

    def collect(self, iteration: int, scratch: Path, progress: Progress) -> Experience:
        """Draw this iteration's samples from the policy, score them, and turn scores into advantages or weights."""
        config, watch = self.config, Stopwatch()
        everyone = self.prompts.draw(
            config.samples_per_iteration,
            seed=config.seed,
            iteration=iteration,
            samples_per_prompt=config.samples_per_prompt,
        )
        own = self.runtime.share(config.samples_per_iteration)
        prompts = [everyone[index] for index in own]
        clean = self._clean_samples(scratch / f"samples-from-{own.start}")
        trajectories, problem = list[Trajectory](), ""
        scores = {key: list[float]() for key in self.reward.components}
        for first, trajectory in self._draw(iteration, own, prompts, progress):
            if clean is None:
                trajectories.append(trajectory)
            else:
                clean.add(trajectory.final)
            watch.lap("time/rollout")
            progress("reward", first, len(own))
            images = self.policy.decode(trajectory.final)
            watch.lap("time/decode")
            try:
                part = prompts[first : first + len(trajectory)]
                for key, score_B in self._score(images, part, own.start + first).items():
                    scores[key] += score_B.tolist()
            except RewardError as error:
                problem = str(error)
                break
            watch.lap("time/reward")
        texts = [prompt.text for prompt in everyone]
        together = ComponentScores(texts, self._of_all_processes(scores, problem))
        reward_B = combine(self.reward, together)
        credit_B, metrics = self.credit.assign(texts, reward_B, own)
        return Experience(
            Trajectory.concatenate(trajectories) if clean is None else clean,
            [prompt.text for prompt in prompts],
            own.start,
            torch.as_tensor(credit_B, dtype=torch.float32, device=self.policy.device),
            reward_statistics(reward_B, config.samples_per_prompt)
            | component_statistics(self.reward, together)
            | metrics
            | watch.laps,
        )

    def _clean_samples(self, folder: Path) -> CleanSamples | None:
        """Return where a regression keeps its samples; None where the algorithm needs trajectories."""
        algorithm = self.config.algorithm
        if not isinstance(algorithm, WeightedRegression):
            return None
        return CleanSamples(folder, memory_bytes=int(algorithm.memory_gb * 1e9))

    def _draw(
        self, iteration: int, own: range, prompts: list[Prompt], progress: Progress
    ) -> Iterator[tuple[int, Trajectory]]:
        """Yield parts of this process's samples, each with the position of its first."""
        size = math.ceil(PART / self.config.batch_size) * self.config.batch_size
        for first in range(0, len(own), size):
            part = slice(first, first + size)
            trajectory = rollout(
                self.policy,
                self.policy.encode([prompt.text for prompt in prompts[part]]),
                sample_seeds(self.config.seed, Stream.SAMPLE, iteration, own[part]),
                batch_size=self.config.batch_size,
                progress=partial(_shifted, progress, first, len(own)),
            )
            yield first, trajectory

    def _score(self, images: torch.Tensor, prompts: list[Prompt], first: int) -> dict[str, Array]:
        texts, metadata = [prompt.text for prompt in prompts], [prompt.metadata for prompt in prompts]
        return score_components(self.reward, images, texts, metadata, first_index=first)

    def _of_all_processes(self, scores: dict[str, list[float]], problem: str) -> dict[str, Array]:
        """Return the components' scores of all processes' samples; a failure in one process is raised in all."""
        everyone = self.runtime.gather([(scores, problem)])
        for _, message in everyone:
            if message:
                raise RewardError(message)
        return {key: np.array([value for own, _ in everyone for value in own[key]]) for key in scores}

    def update(self, iteration: int, experience: Experience, progress: Progress) -> Metrics:
        """Make the iteration's updates: each accumulates the gradient of its whole minibatch (F.1, F.2)."""
        config, watch, samples = self.config, Stopwatch(), experience.samples
        algorithm: Any = config.algorithm  # each takes its own kind of minibatch
        total, norms = config.updates * config.inner_epochs, list[float]()
        start: Metrics = {}
        if isinstance(samples, Trajectory):
            pairs = PairMetrics(samples.log_prob_BL.shape[1])
        else:
            pairs = PairMetrics(self.policy.schedule.training_timesteps)
            if algorithm.fresh_optimizer:
                self.optimizer = self.new_optimizer()
        progress("update", 0, total)
        for number, minibatch in enumerate(self._minibatches(iteration, experience)):
            for batch in passes(minibatch, config.batch_size):
                loss, metrics = algorithm.loss(self.policy, batch)
                self.runtime.backward(loss * (len(batch) / len(minibatch)))
                pairs.add(batch.step_N, metrics)
            if number == 0 and isinstance(samples, Trajectory):
                start = self.check_replay(pairs, algorithm.ratio_tolerance(samples.dimensions))
            norm = self.runtime.optimizer_step(self.optimizer, self.parameters, config.max_gradient_norm)
            norms += [] if norm is None else [norm]
            progress("update", number + 1, total)
        watch.lap("time/update")
        return {
            **start,
            **averages(self.runtime.gather(pairs.sums())),
            "gradient_norm": float(np.mean(norms)) if norms else 0.0,
            "updates_skipped": total - len(norms),
            **watch.laps,
        }

    def _minibatches(self, iteration: int, experience: Experience) -> Iterator[Minibatch | DenoisingBatch]:
        """Yield a minibatch for each update of the iteration."""
        config, samples = self.config, experience.samples
        if isinstance(samples, CleanSamples):
            yield from denoising_updates(
                samples,
                experience.prompts,
                experience.credit_B,
                self.policy.schedule,
                number=config.updates,
                size=len(self.runtime.share(config.samples_per_update)),
                generator=self._generator(Stream.DENOISING, iteration, experience.first),
            )
            return
        for epoch in range(config.inner_epochs):
            yield from updates(
                samples,
                experience.credit_B,
                number=config.updates,
                timestep_fraction=config.timestep_fraction,
                generator=self._generator(Stream.SHUFFLE, iteration, epoch),
            )

    def _generator(self, stream: Stream, *position: int) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(self.config.seed, stream, *position))

    def check_replay(self, pairs: PairMetrics, tolerance: float) -> Metrics:
        """Return the largest |ratio - 1| of pairs replayed before the first update, over all processes.

        Also for each stretch of the denoising run: the last steps are the most sensitive.

        Raises:
            ReplayError: it exceeds `tolerance`, a tenth of the clip: the update would be noise.
        """
        errors = self.runtime.gather(pairs.largest_ratio_errors())
        error, step, _ = max(errors)
        if not error <= tolerance:
            timestep = int(self.policy.sampler.grid.timestep_T[step])
            raise ReplayError(
                f"Replay does not reproduce the rollout: before the first update the importance ratio at timestep "
                f"{timestep} (step {step + 1} of {len(self.policy.sampler)}) is off by {error:.2g}, above "
                f"{tolerance:.2g}, a tenth of the clip. Use precision=fp32 and compile=false, or a wider clip."
            )
        worst = {f"ratio/max_error_at_start/bucket_{bucket}": 0.0 for _, _, bucket in sorted(errors, key=itemgetter(2))}
        for value, _, bucket in errors:
            name = f"ratio/max_error_at_start/bucket_{bucket}"
            worst[name] = max(worst[name], value)
        return {"ratio/max_error_at_start": error, **worst}


def _shifted(progress: Progress, first: int, total: int, done: int) -> None:
    """Report samples of a part that begins at `first`."""
    progress("rollout", first + done, total)


class Stopwatch:
    """Seconds between laps, added up by name."""

    def __init__(self) -> None:
        self.laps: Metrics = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Add the seconds since the last lap to those of `name`."""
        now = time.perf_counter()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._last
        self._last = now
