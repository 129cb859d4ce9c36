"""The algorithms: each is a configuration object with a `loss(policy, batch)`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ddpo.algorithms.ddpo import DDPOImportanceSampling, DDPOScoreFunction

Algorithm = Annotated[DDPOImportanceSampling | DDPOScoreFunction, Field(discriminator="name")]
"""Any algorithm, told apart by `name` in a configuration."""

ALGORITHMS: dict[str, type[DDPOImportanceSampling] | type[DDPOScoreFunction]] = {
    "ddpo-is": DDPOImportanceSampling,
    "ddpo-sf": DDPOScoreFunction,
}

__all__ = ["ALGORITHMS", "Algorithm", "DDPOImportanceSampling", "DDPOScoreFunction"]
