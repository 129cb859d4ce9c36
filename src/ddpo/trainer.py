"""The training loop: collect samples, update the policy, repeat (paper sections C.3 and F.1)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
import torch
from numpy.typing import NDArray

from ddpo.advantages import RunningStatistics, batch_advantages, group_advantages, leave_one_out_advantages
from ddpo.config import TrainConfig
from ddpo.distributed import Runtime
from ddpo.errors import ReplayError, RewardError
from ddpo.metrics import PairMetrics, averages
from ddpo.minibatches import passes, updates
from ddpo.policy import Policy
from ddpo.prompts import Prompt, PromptSource
from ddpo.randomness import Stream, derive_seed, sample_seeds
from ddpo.rewards import NamedReward, score
from ddpo.rollout import rollout
from ddpo.trajectory import Minibatch, Trajectory

Metrics = dict[str, float]
Progress = Callable[[str, int, int], None]
"""Told the phase, and how much of it is done out of how much."""


@dataclass(frozen=True)
class Experience:
    """What the rollout phase of an iteration leaves for its update phase."""

    trajectory: Trajectory
    """This process's samples."""
    advantage_B: torch.Tensor
    """`(B,)` float32: their advantages."""
    metrics: Metrics
    """Reward statistics over all processes, and times."""


class Trainer:
    """Denoising diffusion policy optimization of a policy under a reward.

    `prompts -> rollout -> decode -> reward -> advantages -> minibatches -> algorithm.loss -> optimizer`.
    """

    def __init__(
        self, config: TrainConfig, policy: Policy, reward: NamedReward, prompts: PromptSource, runtime: Runtime
    ) -> None:
        """The policy's trainable parameters get a fresh AdamW (F.6)."""
        self.config, self.policy, self.reward, self.prompts, self.runtime = config, policy, reward, prompts, runtime
        self.statistics = RunningStatistics(config.advantage.buffer_size, config.advantage.min_count)
        self.parameters = list(policy.parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=config.learning_rate,
            betas=(config.optimizer.beta1, config.optimizer.beta2),
            eps=config.optimizer.epsilon,
            weight_decay=config.optimizer.weight_decay,
        )

    def train(self, progress: Progress) -> Iterator[Metrics]:
        """Yield the metrics of each iteration after its last update.

        Raises:
            RewardError: the reward failed; nothing was trained on this iteration's samples.
            ReplayError: replaying the stored steps does not give the log-probabilities of the rollout.
            DivergenceError: a gradient is not finite; the weights are those of the update before.
        """
        for iteration in range(1, self.config.iterations + 1):
            experience = self.collect(iteration, progress)
            metrics = self.update(iteration, experience, progress)
            queries = iteration * self.config.samples_per_iteration
            metrics = {"iteration": iteration, "reward_queries": queries, **experience.metrics, **metrics}
            del experience  # its trajectories need not be there when the next are drawn
            yield metrics

    def collect(self, iteration: int, progress: Progress) -> Experience:
        """Draw this iteration's samples from the policy, score them and turn scores into advantages."""
        config, watch = self.config, Stopwatch()
        everyone = self.prompts.draw(
            config.samples_per_iteration,
            seed=config.seed,
            iteration=iteration,
            samples_per_prompt=config.samples_per_prompt,
        )
        own = self.runtime.share(config.samples_per_iteration)
        prompts = [everyone[index] for index in own]
        trajectory = rollout(
            self.policy,
            self.policy.encode([prompt.text for prompt in prompts]),
            sample_seeds(config.seed, Stream.SAMPLE, iteration, own),
            batch_size=config.batch_size,
            progress=lambda done: progress("rollout", done, len(own)),
        )
        watch.lap("time/rollout")
        progress("reward", 0, len(own))
        images = self.policy.decode(trajectory.final)
        watch.lap("time/decode")
        reward_B = self._score(images, prompts, own.start)
        watch.lap("time/reward")
        advantage_B = self.advantages([prompt.text for prompt in everyone], reward_B)[own.start : own.stop]
        return Experience(
            trajectory,
            torch.as_tensor(advantage_B, dtype=torch.float32, device=trajectory.states.device),
            reward_statistics(reward_B) | watch.laps,
        )

    def _score(self, images: torch.Tensor, prompts: list[Prompt], first: int) -> NDArray[np.float64]:
        """Return the rewards of all processes' samples; a failure in one process is raised in all."""
        texts, metadata = [prompt.text for prompt in prompts], [prompt.metadata for prompt in prompts]
        own, problem = [], ""
        try:
            own = score(self.reward, images, texts, metadata, first_index=first).tolist()
        except RewardError as error:
            problem = str(error)
            if self.runtime.processes == 1:
                raise
        everyone = self.runtime.gather([(own, problem)])
        for _, message in everyone:
            if message:
                raise RewardError(message)
        return np.asarray([reward for rewards, _ in everyone for reward in rewards])

    def advantages(self, prompts: list[str], reward_B: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the advantages `(B,)` of the samples of all processes, clipped (F.3)."""
        match self.config.advantage.name:
            case "running":
                self.statistics, advantage_B = self.statistics.update(prompts, reward_B)
            case "batch":
                advantage_B = batch_advantages(reward_B)
            case "group":
                advantage_B = group_advantages(prompts, reward_B)
            case "leave-one-out":
                advantage_B = leave_one_out_advantages(prompts, reward_B)
        limit = self.config.advantage.clip
        return advantage_B if limit is None else advantage_B.clip(-limit, limit)

    def update(self, iteration: int, experience: Experience, progress: Progress) -> Metrics:
        """Make the iteration's updates: each accumulates gradients over all steps of its samples (F.1)."""
        config, watch = self.config, Stopwatch()
        pairs = PairMetrics(experience.trajectory.log_prob_BL.shape[1])
        total, norms = config.updates * config.inner_epochs, list[float]()
        start: Metrics = {}
        progress("update", 0, total)
        for number, minibatch in enumerate(self._minibatches(iteration, experience)):
            for batch in passes(minibatch, config.batch_size):
                loss, metrics = config.algorithm.loss(self.policy, batch)
                self.runtime.backward(loss * (len(batch) / len(minibatch)))
                pairs.add(batch.step_N, metrics)
            if number == 0:
                start = self.check_replay(pairs, experience.trajectory.dimensions)
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

    def _minibatches(self, iteration: int, experience: Experience) -> Iterator[Minibatch]:
        for epoch in range(self.config.inner_epochs):
            seed = derive_seed(self.config.seed, Stream.SHUFFLE, iteration, epoch)
            yield from updates(
                experience.trajectory,
                experience.advantage_B,
                number=self.config.updates,
                timestep_fraction=self.config.timestep_fraction,
                generator=torch.Generator().manual_seed(seed),
            )

    def check_replay(self, pairs: PairMetrics, dimensions: int) -> Metrics:
        """Return the largest |ratio - 1| of pairs replayed before the first update, over all processes.

        Also for each stretch of the denoising run: the last steps are the most sensitive.

        Raises:
            ReplayError: it exceeds the algorithm's tolerance, a tenth of the clip: the update would be noise.
        """
        errors = self.runtime.gather(pairs.largest_ratio_errors())
        error, step, _ = max(errors)
        tolerance = self.config.algorithm.ratio_tolerance(dimensions)
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


def reward_statistics(reward_B: NDArray[np.float64]) -> Metrics:
    """Return mean, sample standard deviation and standard error of the rewards `(B,)` of an iteration."""
    std = float(reward_B.std(ddof=1)) if len(reward_B) > 1 else 0.0
    return {
        "reward/mean": float(reward_B.mean()),
        "reward/std": std,
        "reward/standard_error": std / math.sqrt(len(reward_B)),
    }


class Stopwatch:
    """Seconds between laps."""

    def __init__(self) -> None:
        self.laps: Metrics = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Record the seconds since the last lap under `name`."""
        now = time.perf_counter()
        self.laps[name], self._last = now - self._last, now
