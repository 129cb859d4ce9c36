"""Measuring several rewards on the same samples, of which some may turn out not to fit them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ddpo.media import Medium
from ddpo.rewards.contract import Array, ComponentScores, LoadedReward, combine, score_components
from ddpo.runtime.errors import RewardError

if TYPE_CHECKING:
    from torch import Tensor

PartScores = dict[str, dict[str, Array]]
"""Scores `(B,)` of a part of the samples, by the reward's key and the component's."""


class Scorer:
    """Scores samples by every reward and by the components of those that are combined.

    Of rewards with the same key the first is measured. One that is not required and fails is left out from then on.
    """

    def __init__(self, required: Sequence[LoadedReward], optional: Sequence[LoadedReward]) -> None:
        self._required = {reward.key for reward in required}
        self._rewards: dict[str, LoadedReward] = {}
        for reward in (*required, *optional):
            if reward.key not in self.labels:
                self._rewards[reward.key] = reward
        self.not_measured: list[str] = []
        """Why rewards were left out."""
        self._references: dict[str, ComponentScores] = {}

    @property
    def labels(self) -> dict[str, str]:
        """Words with the unit for everything measured, by key: each reward, then its components."""
        labels: dict[str, str] = {}
        for reward in self._rewards.values():
            labels.setdefault(reward.key, reward.label)
            for key, component in reward.components.items():
                labels.setdefault(key, component.label)
        return labels

    def score(
        self,
        medium: Medium,
        samples: Tensor,
        prompts: Sequence[str],
        metadata: Sequence[Mapping[str, Any]],
        *,
        first_index: int = 0,
    ) -> PartScores:
        """Return what the components give a part of the samples, `(B, ...)` of the medium.

        Raises RewardError when a required reward fails.
        """
        scores: PartScores = {}
        for reward in list(self._rewards.values()):
            try:
                scores[reward.key] = score_components(
                    reward, medium, samples, prompts, metadata, first_index=first_index
                )
            except RewardError as error:
                self._leave_out(reward, error)
        return scores

    def combine(self, parts: Sequence[PartScores], prompts: Sequence[str]) -> dict[str, Array]:
        """Return the scores `(B,)` of everything measured, by key, of the samples of all parts.

        What a combination normalises is normalised over the samples of the first call: those of the base model, so
        that later samples of the same prompts can score higher or lower.

        Raises RewardError when a required reward fails.
        """
        combined: dict[str, Array] = {}
        for reward in list(self._rewards.values()):
            by_key = {key: np.concatenate([part[reward.key][key] for part in parts]) for key in reward.components}
            scores = ComponentScores(list(prompts), by_key)
            reference = self._references.setdefault(reward.key, scores)
            try:
                measured = {reward.key: combine(reward, scores, reference)} | by_key
            except RewardError as error:
                self._leave_out(reward, error)
                continue
            for key, score_B in measured.items():
                combined.setdefault(key, score_B)
        return combined

    def _leave_out(self, reward: LoadedReward, error: RewardError) -> None:
        if reward.key in self._required:
            raise error
        del self._rewards[reward.key]
        self.not_measured.append(str(error))
