"""The fixed samples: the same prompts and seeds drawn again through training, scored and drawn as a grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddpo.core.policy import Policy
from ddpo.core.randomness import Stream, sample_seeds
from ddpo.core.rollout import rollout
from ddpo.core.trajectory import Trajectory
from ddpo.evaluation.divergence import BaseParameters, kl_to_base
from ddpo.media import Image
from ddpo.media.diversity import diversity
from ddpo.prompts.source import Prompt, PromptSource
from ddpo.report.grid import draw_before_after, draw_grid, draw_tiles, tile_columns
from ddpo.rewards import LoadedReward, Scorer, to_uint8
from ddpo.runs.folder import RunFolder
from ddpo.runtime.errors import DDPOError, RewardError


@dataclass(frozen=True)
class Evaluation:
    """Fixed samples drawn at one moment of a run."""

    iteration: int
    """Iterations trained before."""
    pixels: NDArray[np.uint8]
    """`(B, H, W, 3)`."""
    scores: dict[str, NDArray[np.float64]]
    """Each measured reward's `(B,)` scores, by its key; the trained reward comes first, then its components."""

    kl_to_base: float | None = None
    """Mean divergence of the trajectories from the base model, nats; None: not measured."""

    @cached_property
    def diversity(self) -> float | None:
        """Mean root mean square difference of two samples' pixels, scale 0 to 1; None with a single sample."""
        return diversity(self.pixels)

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
        base: BaseParameters | None = None,
        meet: Callable[[DDPOError | None], None] = lambda problem: None,
    ) -> None:
        """`rewards` are the trained reward and the others to measure, scored in that order.

        With `base` the divergence from it is measured too. `meet` is called between batches and after scoring, with
        what went wrong if anything did, which it raises in every process; it may also raise to end an evaluation.
        """
        self._prompts: list[Prompt] = source.fixed(number)
        self._seeds = sample_seeds(seed, Stream.FIXED_SAMPLE, 0, range(number))
        self._batch_size = min(batch_size, number)
        self._base = base
        self._meet = meet
        self._scorer = Scorer(rewards[:1], rewards[1:])

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
        texts = [prompt.text for prompt in self._prompts]
        metadata = [prompt.metadata for prompt in self._prompts]
        trajectory = rollout(
            policy,
            policy.encode(texts),
            self._seeds,
            batch_size=self._batch_size,
            progress=lambda done: self._meet(None),
        )
        images = policy.decode(trajectory.final)
        scores: dict[str, NDArray[np.float64]] = {}
        problem: RewardError | None = None
        try:
            scores = self._scorer.combine([self._scorer.score(Image(), images, texts, metadata)], texts)
        except RewardError as error:
            problem = error
        self._meet(problem)
        if problem is not None:
            raise problem
        return Evaluation(iteration, to_uint8(images.numpy()), scores, self._divergence(policy, trajectory))

    def _divergence(self, policy: Policy, trajectory: Trajectory) -> float | None:
        if self._base is None:
            return None
        return float(kl_to_base(policy, self._base, trajectory, batch_size=self._batch_size).mean())

    def write(self, folder: RunFolder, evaluation: Evaluation) -> None:
        """Write the grid with captions, the bare pictures, and the record of what was measured."""
        files = folder.sample_files(evaluation.iteration)
        title = f"after {evaluation.iteration} iterations" if evaluation.iteration else "before training"
        draw_grid(evaluation.pixels, self._captions(evaluation), files.grid, title=title)
        draw_tiles(evaluation.pixels, files.tiles)
        folder.write_sample_record(evaluation.iteration, self._record(evaluation, files.tiles.name))

    def _record(self, evaluation: Evaluation, tiles: str) -> dict[str, Any]:
        number, height, width, _ = evaluation.pixels.shape
        return {
            "iteration": evaluation.iteration,
            "tiles": {"file": tiles, "columns": tile_columns(number), "width": width, "height": height},
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
        """Write one picture of the fixed samples at two moments."""
        captions = self._captions(before), self._captions(after)
        draw_before_after(before.pixels, after.pixels, *captions, folder.before_after)

    def _captions(self, evaluation: Evaluation) -> list[str]:
        trained = next(iter(evaluation.scores.values()))
        return [f"{prompt.text} {value:.2f}" for prompt, value in zip(self._prompts, trained, strict=True)]
