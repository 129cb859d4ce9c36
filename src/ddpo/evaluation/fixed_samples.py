"""The fixed samples: the same prompts and seeds drawn again through training, scored and drawn as a grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddpo.core.policy import Policy
from ddpo.core.randomness import Stream, sample_seeds
from ddpo.core.rollout import even_batch, rollout
from ddpo.evaluation.divergence import kl_to_base
from ddpo.prompts import Prompt, PromptSource
from ddpo.report.grid import draw_before_after, draw_grid, draw_tiles, tile_columns
from ddpo.report.wording import count
from ddpo.rewards import LoadedReward, Scorer
from ddpo.runs.folder import RunFolder
from ddpo.runtime.errors import DDPOError, RewardError
from ddpo.runtime.processes import Runtime


@dataclass(frozen=True)
class Evaluation:
    """Fixed samples drawn at one moment of a run."""

    iteration: int
    """Iterations trained before."""
    thumbnails: NDArray[np.uint8] | None
    """`(B, H, W, 3)`: what can be seen of the samples; None: nothing."""
    scores: dict[str, NDArray[np.float64]]
    """Each measured reward's `(B,)` scores, by its key; the trained reward comes first, then its components."""
    diversity: float | None
    """Mean root mean square difference of two samples, for pictures on a scale of 0 to 1; None with a single sample."""
    kl_to_base: float | None = None
    """Mean divergence of the trajectories from the base model, nats; None: not measured."""

    def __len__(self) -> int:
        return len(next(iter(self.scores.values())))

    @property
    def metrics(self) -> dict[str, float]:
        """What was measured, named as in docs/metrics.md."""
        measured = {f"{name}/mean": mean for name, mean in self.means.items()}
        measured |= {"diversity": self.diversity} if self.diversity is not None else {}
        measured |= {"kl_to_base": self.kl_to_base} if self.kl_to_base is not None else {}
        return {f"evaluation/{name}": value for name, value in measured.items()}

    @property
    def means(self) -> dict[str, float]:
        """Mean score of each measured reward."""
        return {name: float(score_B.mean()) for name, score_B in self.scores.items()}


class Evaluator:
    """Draws the fixed samples of a run and keeps their pictures."""

    def __init__(
        self,
        source: PromptSource,
        rewards: Sequence[LoadedReward],
        *,
        number: int,
        seed: int,
        batch_size: int,
        runtime: Runtime,
        measure_divergence: bool = False,
        barrier: Callable[[DDPOError | None], None] = lambda problem: None,
        left_out: Sequence[str] = (),
    ) -> None:
        """`rewards` are the trained reward and the others to measure, scored in that order.

        The processes of `runtime` draw equal parts of the samples; the main one scores them all. With
        `measure_divergence` that from the base model is measured too. `barrier` is called between batches and after
        scoring, with what went wrong if anything did, which it raises in every process; it may also raise to end an
        evaluation. `left_out` says why other rewards were left out before.
        """
        self._prompts: list[Prompt] = source.fixed(number)
        self._seeds = sample_seeds(seed, Stream.FIXED_SAMPLE, 0, range(number))
        self._runtime = runtime
        self._own = runtime.part(number)
        self._batch_size = even_batch(len(self._own), batch_size)
        self._measure_divergence = measure_divergence
        self._barrier = barrier
        self._scorer = Scorer(rewards[:1], rewards[1:])
        self._scorer.not_measured.extend(left_out)

    @property
    def texts(self) -> list[str]:
        """The prompts' texts."""
        return [prompt.text for prompt in self._prompts]

    @property
    def labels(self) -> dict[str, str]:
        """Words with the unit for everything measured, by key."""
        return self._scorer.labels

    @property
    def not_measured(self) -> list[str]:
        """Why other rewards than the trained one cannot be measured on these prompts."""
        return self._scorer.not_measured

    def evaluate(self, policy: Policy, iteration: int) -> Evaluation:
        """Draw and score the fixed samples.

        A reward that is only measured and fails is measured no more (the judge knows nothing of houses). Where a
        combined reward normalises, it does so over the samples of the first evaluation.

        Raises:
            RewardError: the trained reward failed.
        """
        trajectory = rollout(
            policy,
            policy.encode([self._prompts[index] for index in self._own]),
            [self._seeds[index] for index in self._own],
            batch_size=self._batch_size,
            progress=lambda done: self._barrier(None),
        )
        kl_B = torch.zeros(len(self._own))
        if self._measure_divergence and iteration:  # before training it is that of the base model from itself
            kl_B = kl_to_base(policy, trajectory, batch_size=self._batch_size)
        parts = self._runtime.gather([(policy.decode(trajectory.final), kl_B)])
        samples, kl_S = (torch.cat(each)[: len(self._seeds)] for each in zip(*parts, strict=True))
        scores = self._scored(policy, samples)
        divergence = float(kl_S.mean()) if self._measure_divergence else None
        medium = policy.medium
        return Evaluation(iteration, medium.thumbnails(samples), scores, medium.diversity(samples), divergence)

    def _scored(self, policy: Policy, samples: Tensor) -> dict[str, NDArray[np.float64]]:
        """Return what every reward gives the samples; a failure of the trained one is raised in every process."""
        texts, metadata = self.texts, [prompt.metadata for prompt in self._prompts]
        scores, problem = [], None
        if self._runtime.is_main:
            try:
                scores = [self._scorer.combine([self._scorer.score(policy.medium, samples, texts, metadata)], texts)]
            except RewardError as error:
                problem = error
        self._barrier(problem)
        if problem is not None:
            raise problem
        return self._runtime.gather(scores)[0]

    def write(self, folder: RunFolder, evaluation: Evaluation) -> None:
        """Write the grid with captions, the bare pictures, and the record of what was measured."""
        files = folder.sample_files(evaluation.iteration)
        if evaluation.thumbnails is not None:
            title = f"after {count(evaluation.iteration, 'iteration')}" if evaluation.iteration else "before training"
            draw_grid(evaluation.thumbnails, self._captions(evaluation), files.grid, title=title)
            draw_tiles(evaluation.thumbnails, files.tiles)
        folder.write_sample_record(evaluation.iteration, self._record(evaluation, files.tiles.name))

    def _record(self, evaluation: Evaluation, file: str) -> dict[str, Any]:
        tiles = None
        if evaluation.thumbnails is not None:
            number, height, width, _ = evaluation.thumbnails.shape
            tiles = {"file": file, "columns": tile_columns(number), "width": width, "height": height}
        return {
            "iteration": evaluation.iteration,
            "tiles": tiles,
            "diversity": evaluation.diversity,
            "kl_to_base": evaluation.kl_to_base,
            "trained_reward": next(iter(evaluation.scores)),
            "labels": self.labels,
            "not_measured": self.not_measured,
            "samples": [
                {
                    "prompt": prompt.text,
                    "seed": seed,
                    "rewards": {name: float(score_B[index]) for name, score_B in evaluation.scores.items()},
                }
                for index, (prompt, seed) in enumerate(zip(self._prompts, self._seeds, strict=True))
            ],
        }

    def write_before_after(self, folder: RunFolder, before: Evaluation, after: Evaluation) -> None:
        """Write one picture of the fixed samples at two moments, where there is something to see."""
        if before.thumbnails is not None and after.thumbnails is not None:
            captions = self._captions(before), self._captions(after)
            draw_before_after(before.thumbnails, after.thumbnails, *captions, folder.before_after)

    def _captions(self, evaluation: Evaluation) -> list[str]:
        trained = next(iter(evaluation.scores.values()))
        return [f"{prompt.text} {value:.2f}".strip() for prompt, value in zip(self._prompts, trained, strict=True)]
