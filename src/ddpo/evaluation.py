"""The fixed samples: the same prompts and seeds drawn again through training, scored and drawn as a grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ddpo.errors import RewardError
from ddpo.policy import Policy
from ddpo.prompts.source import Prompt, PromptSource
from ddpo.randomness import Stream, sample_seeds
from ddpo.report.grid import draw_before_after, draw_grid
from ddpo.rewards import NamedReward, score, to_uint8
from ddpo.run_folder import RunFolder
from ddpo.sampling import draw


@dataclass(frozen=True)
class Evaluation:
    """Fixed samples drawn at one moment of a run."""

    iteration: int
    """Iterations trained before."""
    pixels: NDArray[np.uint8]
    """`(B, H, W, 3)`."""
    scores: dict[str, NDArray[np.float64]]
    """Each measured reward's `(B,)` scores, by the reward's key; the trained reward comes first."""

    @property
    def means(self) -> dict[str, float]:
        """Mean score of each measured reward."""
        return {name: float(score_B.mean()) for name, score_B in self.scores.items()}


class Evaluator:
    """Draws the fixed samples of a run and keeps their pictures."""

    def __init__(
        self, source: PromptSource, rewards: Sequence[NamedReward], *, number: int, seed: int, batch_size: int
    ) -> None:
        """`rewards` are the trained reward and the others to measure, scored in that order."""
        self._prompts: list[Prompt] = source.fixed(number)
        self._seeds = sample_seeds(seed, Stream.FIXED_SAMPLE, 0, range(number))
        self._batch_size = min(batch_size, number)
        self.rewards = list({reward.key: reward for reward in reversed(rewards)}.values())[::-1]
        self.not_measured: list[str] = []
        """Why other rewards than the trained one cannot be measured on these prompts."""

    def evaluate(self, policy: Policy, iteration: int) -> Evaluation:
        """Draw and score the fixed samples.

        A reward that is only measured and fails is measured no more (the judge knows nothing of houses).

        Raises:
            RewardError: the trained reward failed.
        """
        texts = [prompt.text for prompt in self._prompts]
        metadata = [prompt.metadata for prompt in self._prompts]
        images = draw(policy, texts, self._seeds, batch_size=self._batch_size)
        trained, *others = self.rewards
        scores = {trained.key: score(trained, images, texts, metadata)}
        for reward in others:
            try:
                scores[reward.key] = score(reward, images, texts, metadata)
            except RewardError as error:
                self.rewards.remove(reward)
                self.not_measured.append(str(error))
        return Evaluation(iteration, to_uint8(images.numpy()), scores)

    def write(self, folder: RunFolder, evaluation: Evaluation) -> None:
        """Write the grid with captions, and a record of prompts, seeds and scores."""
        grid, _ = folder.sample_files(evaluation.iteration)
        title = f"after {evaluation.iteration} iterations" if evaluation.iteration else "before training"
        draw_grid(evaluation.pixels, self._captions(evaluation), grid, title=title)
        record = [
            {
                "prompt": prompt.text,
                "seed": seed,
                "rewards": {name: float(score_B[index]) for name, score_B in evaluation.scores.items()},
            }
            for index, (prompt, seed) in enumerate(zip(self._prompts, self._seeds, strict=True))
        ]
        folder.write_sample_record(evaluation.iteration, record)

    def write_before_after(self, folder: RunFolder, before: Evaluation, after: Evaluation) -> None:
        """Write one picture of the fixed samples at two moments."""
        captions = self._captions(before), self._captions(after)
        draw_before_after(before.pixels, after.pixels, *captions, folder.before_after)

    def _captions(self, evaluation: Evaluation) -> list[str]:
        trained = next(iter(evaluation.scores.values()))
        return [f"{prompt.text} {value:.2f}" for prompt, value in zip(self._prompts, trained, strict=True)]
