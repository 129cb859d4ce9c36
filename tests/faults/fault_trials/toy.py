"""The policy of tests/learning/mixture.py for trials: an iteration takes milliseconds. It is fitted once."""

from __future__ import annotations

import copy
import functools

from mixture import MixturePolicy


@functools.cache
def _fitted() -> MixturePolicy:
    return MixturePolicy()


def toy_policy() -> MixturePolicy:
    """Return a policy of its own."""
    return copy.deepcopy(_fitted())
