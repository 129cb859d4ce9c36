"""The algorithms: each is a configuration object with credit, minibatches and loss (`algorithm.py`)."""

from __future__ import annotations

import inspect

from ddpo.algorithms.advantage import Advantage
from ddpo.algorithms.algorithm import Algorithm, PolicyGradient
from ddpo.algorithms.ddpo import DDPOImportanceSampling, DDPOScoreFunction
from ddpo.algorithms.rwr import RewardWeightedRegression, SparseRewardWeightedRegression, WeightedRegression
from ddpo.runtime.errors import ConfigError, nearest
from ddpo.runtime.plugins import is_plugin, load_object

ALGORITHMS: dict[str, type[Algorithm]] = {
    "ddpo-is": DDPOImportanceSampling,
    "ddpo-sf": DDPOScoreFunction,
    "rwr": RewardWeightedRegression,
    "rwr-sparse": SparseRewardWeightedRegression,
}


def algorithm_class(name: object) -> type[Algorithm]:
    """Return the class of an algorithm by its name, or of the user's own as `path/to/file.py:Name`.

    Raises:
        ConfigError: there is none, or it is no `Algorithm`.
    """
    if isinstance(name, str) and name in ALGORITHMS:
        return ALGORITHMS[name]
    if is_plugin(name):
        found = load_object(str(name), "algorithm", ConfigError)
        if inspect.isclass(found) and issubclass(found, Algorithm):
            return found
        raise ConfigError(f"algorithm: '{name}' is not a class that derives from ddpo.algorithms.Algorithm.")
    unknown = "needs a 'name'." if name is None else f"unknown algorithm '{name}'.{nearest(str(name), ALGORITHMS)}"
    raise ConfigError(f"algorithm.name: {unknown} Known: {', '.join(ALGORITHMS)}, or your own as path/to/file.py:Name.")


__all__ = [
    "ALGORITHMS",
    "Advantage",
    "Algorithm",
    "DDPOImportanceSampling",
    "DDPOScoreFunction",
    "PolicyGradient",
    "RewardWeightedRegression",
    "SparseRewardWeightedRegression",
    "WeightedRegression",
    "algorithm_class",
]
