"""The first half of an iteration: samples of the policy with their rewards (paper sections C.2, C.3, F.3)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ddpo.algorithms import WeightedRegression
from ddpo.config import TrainConfig
from ddpo.core.policy import Policy
from ddpo.core.randomness import Stream, sample_seeds
from ddpo.core.rollout import rollout
from ddpo.core.trajectory import Trajectory
from ddpo.prompts import Prompt, PromptSource
from ddpo.rewards import ComponentScores, LoadedReward, combine
from ddpo.runtime.errors import DivergenceError, RewardError
from ddpo.training.clean_samples import CleanSamples
from ddpo.training.control import Control
from ddpo.training.credit import Credit, component_statistics, reward_statistics
from ddpo.training.experience import Experience, Progress, Trajectories
from ddpo.training.scoring import Part, Scoring
from ddpo.training.stopwatch import Stopwatch


class Collector:
    """Draws samples from a policy, scores them, and turns scores into advantages or weights."""

    def __init__(
        self, config: TrainConfig, policy: Policy, reward: LoadedReward, prompts: PromptSource, control: Control
    ) -> None:
        self._config, self._policy, self._control = config, policy, control
        self._reward, self._prompts = reward, prompts
        self.credit = Credit(config, control.runtime.processes)

    def begin(self, iteration: int, scratch: Path) -> Experience:
        """Return an iteration of which nothing is collected yet."""
        own, algorithm = self._control.runtime.share(self._config.samples_per_iteration), self._config.algorithm
        samples: Trajectories | CleanSamples = Trajectories()
        if isinstance(algorithm, WeightedRegression):
            samples = CleanSamples(scratch / f"samples-from-{own.start}", memory_bytes=int(algorithm.memory_gb * 1e9))
        prompts = self._drawn_prompts(iteration)[own.start : own.stop]
        return Experience(iteration, prompts, own.start, samples, {key: [] for key in self._reward.components})

    def collect(self, experience: Experience, progress: Progress) -> None:
        """Draw the samples that are left, score each batch while the next is drawn, and assign credit.

        Raises:
            Interrupted: the run was told to stop; the samples that are scored stay in `experience`.
            RewardError, DivergenceError: a reward failed, or a sample is not finite.
        """
        if experience.credit_B is not None:
            return
        watch, problem, total = Stopwatch(experience.metrics), None, len(experience.prompts)
        scoring = Scoring[Trajectory](
            self._reward,
            self._config.scoring,
            group_size=self._config.samples_per_prompt,
            device=self._policy.device,
            check=self._control.look,
            say=self._control.say,
        )
        try:
            for part in self._draw(experience, progress, watch):
                for trajectory, scores in scoring.add(part):
                    experience.add(trajectory, scores)
                watch.lap("time/reward")
                self._control.meet()
            progress("reward", len(experience.samples), total)
            for trajectory, scores in scoring.finish():
                experience.add(trajectory, scores)
                progress("reward", len(experience.samples), total)
            watch.lap("time/reward")
        except (RewardError, DivergenceError) as error:
            problem = error
        finally:
            scoring.close()
        self._control.meet(problem)
        self._assign_credit(experience)

    def _drawn_prompts(self, iteration: int) -> list[Prompt]:
        """Return the prompts of all samples of an iteration."""
        return self._prompts.draw(
            self._config.samples_per_iteration,
            seed=self._config.seed,
            iteration=iteration,
            samples_per_prompt=self._config.samples_per_prompt,
        )

    def _draw(self, experience: Experience, progress: Progress, watch: Stopwatch) -> Iterator[Part[Trajectory]]:
        """Yield the samples that are not scored yet, a batch at a time, decoded."""
        total, size = len(experience.prompts), self._config.batch_size
        for first in range(len(experience.samples), total, size):
            prompts, index = experience.prompts[first : first + size], experience.first + first
            trajectory = self._control.fitting(partial(self._rollout, experience.iteration, prompts, index))
            watch.lap("time/rollout")
            progress("rollout", first + len(prompts), total)
            self._check_finite(trajectory, prompts, index)
            images = self._policy.decode(trajectory.final)
            watch.lap("time/decode")
            yield Part(trajectory, images, prompts, index)

    def _rollout(self, iteration: int, prompts: list[Prompt], first: int) -> Trajectory:
        """Draw the samples from index `first` on."""
        seeds = sample_seeds(self._config.seed, Stream.SAMPLE, iteration, range(first, first + len(prompts)))
        conditioning = self._policy.encode([prompt.text for prompt in prompts])
        return rollout(self._policy, conditioning, seeds, batch_size=self._control.batch_size)

    def _check_finite(self, trajectory: Trajectory, prompts: list[Prompt], first: int) -> None:
        """Raise DivergenceError, naming sample and timestep, when a sample is not finite."""
        finite_BS = trajectory.states.isfinite().flatten(2).all(2)
        if finite_BS.all():
            return
        sample = int((~finite_BS.all(1)).nonzero()[0])
        step = max(0, int((~finite_BS[sample]).nonzero()[0]) - 1)  # state i + 1 is the outcome of step i
        whole = all(bool(parameter.isfinite().all()) for parameter in self._policy.parameters())
        raise DivergenceError(
            f"Sample {first + sample}, prompt '{prompts[sample].text}', is not finite after timestep "
            f"{int(self._policy.sampler.grid.timestep_T[step])}; "
            + ("the weights are: use precision=fp32." if whole else "neither is a weight of the model.")
        )

    def _assign_credit(self, experience: Experience) -> None:
        """Give every sample its advantage or weight; none, 0, to those of a group that was left out."""
        first, number = experience.first, len(experience.prompts)
        scores, kept_K = self._scores_of_all(experience)
        reward_K = combine(self._reward, scores)
        own_K = (kept_K >= first) & (kept_K < first + number)
        credit_K, metrics = self.credit.assign(scores.prompts, reward_K, own_K)
        credit_B = torch.zeros(number, device=self._policy.device)
        credit_B[kept_K[own_K] - first] = torch.as_tensor(credit_K, dtype=torch.float32, device=credit_B.device)
        experience.credit_B = credit_B
        experience.metrics = (
            reward_statistics(reward_K, kept_K // self._config.samples_per_prompt)
            | component_statistics(self._reward, scores)
            | {"reward/skipped": self._config.samples_per_iteration - len(kept_K)}
            | metrics
            | experience.metrics
        )

    def _scores_of_all(self, experience: Experience) -> tuple[ComponentScores, NDArray[np.intp]]:
        """Return the scores of all processes' samples without those left out, and the indices of the samples.

        Raises:
            RewardError: fewer than half of the samples have a score.
        """
        texts = [prompt.text for prompt in self._drawn_prompts(experience.iteration)]
        everyone = self._control.runtime.gather([experience.scores])
        score_B = {key: np.array([score for scores in everyone for score in scores[key]]) for key in experience.scores}
        scored_B = np.all([np.isfinite(values) for values in score_B.values()], axis=0)
        size = self._config.samples_per_prompt  # a group may have been scored in two parts, of which one failed
        kept_K = np.flatnonzero(scored_B.reshape(-1, size).all(1).repeat(size))
        if 2 * len(kept_K) < len(texts):
            raise RewardError(
                f"Reward '{self._reward.name}' failed on {len(texts) - len(kept_K)} of {len(texts)} samples of "
                f"iteration {experience.iteration}: too many to leave out."
            )
        by_key = {key: values[kept_K] for key, values in score_B.items()}
        return ComponentScores([texts[index] for index in kept_K], by_key), kept_K
