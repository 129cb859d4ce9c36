"""The algorithms: each is a configuration object with a `loss(policy, batch)`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ddpo.algorithms.ddpo import DDPOImportanceSampling, DDPOScoreFunction
from ddpo.algorithms.rwr import RewardWeightedRegression, SparseRewardWeightedRegression, WeightedRegression

Algorithm = Annotated[
    DDPOImportanceSampling | DDPOScoreFunction | RewardWeightedRegression | SparseRewardWeightedRegression,
    Field(discriminator="name"),
]
"""Any algorithm, told apart by `name` in a configuration."""

ALGORITHMS: dict[
    str,
    type[DDPOImportanceSampling]
    | type[DDPOScoreFunction]
    | type[RewardWeightedRegression]
    | type[SparseRewardWeightedRegression],
] = {
    "ddpo-is": DDPOImportanceSampling,
    "ddpo-sf": DDPOScoreFunction,
    "rwr": RewardWeightedRegression,
    "rwr-sparse": SparseRewardWeightedRegression,
}

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "DDPOImportanceSampling",
    "DDPOScoreFunction",
    "RewardWeightedRegression",
    "SparseRewardWeightedRegression",
    "WeightedRegression",
]
