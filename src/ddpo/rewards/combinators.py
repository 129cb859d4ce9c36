"""Rewards made of rewards: pure functions of what the components scored for a whole batch.

A combination is a tree. Its leaves name components; each node wraps others and turns their values `(B,)` into its own.
It is evaluated once for the samples of all parts and processes, because ranks and z-scores depend on all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np

from ddpo.rewards.contract import Array, ComponentScores, NamedReward
from ddpo.runtime.errors import RewardError

Normalisation = Literal["raw", "z-score", "rank"]
"""How the values of a term of a sum are made comparable with those of the others."""
NORMALISATIONS: tuple[Normalisation, ...] = get_args(Normalisation)
_CONSTANT = 1e-9
"""A standard deviation below this share of the largest value is rounding: the values do not differ."""


class Expression(Protocol):
    """A node of the tree."""

    def value(self, scores: ComponentScores, reference: ComponentScores) -> Array:
        """Return the values `(B,)` of the samples in `scores`; normalisations are over the samples in `reference`."""
        ...

    def words(self) -> str:
        """Return the formula in short, for tables and figures."""
        ...


@dataclass(frozen=True)
class Component:
    """The raw scores of a component."""

    key: str

    def value(self, scores: ComponentScores, reference: ComponentScores) -> Array:
        """Return the component's scores `(B,)`."""
        del reference
        return scores.by_key[self.key]

    def words(self) -> str:
        """Return the component's key."""
        return self.key


@dataclass(frozen=True)
class Clip:
    """`min(max(x, low), high)`; None: no bound on that side."""

    inner: Expression
    low: float | None
    high: float | None

    def value(self, scores: ComponentScores, reference: ComponentScores) -> Array:
        """Return the clipped values `(B,)`."""
        clipped_B: Array = np.clip(self.inner.value(scores, reference), self.low, self.high)
        return clipped_B

    def words(self) -> str:
        """Return `judge in [0, 1]`, `judge at least 0` or `judge at most 1`."""
        inner = _enclosed(self.inner)
        if self.low is None:
            return f"{inner} at most {self.high:g}"
        return f"{inner} at least {self.low:g}" if self.high is None else f"{inner} in [{self.low:g}, {self.high:g}]"


@dataclass(frozen=True)
class Baseline:
    """`x - b`, where b is the prompt's entry in a table or else `default`."""

    inner: Expression
    default: float | None
    by_prompt: Mapping[str, float]

    def value(self, scores: ComponentScores, reference: ComponentScores) -> Array:
        """Return the differences `(B,)`.

        Raises RewardError naming a prompt that has no baseline.
        """
        baseline_B: Array = np.array([self._of(prompt) for prompt in scores.prompts])
        return self.inner.value(scores, reference) - baseline_B

    def _of(self, prompt: str) -> float:
        baseline = self.by_prompt.get(prompt, self.default)
        if baseline is None:
            raise RewardError(
                f"Reward 'baseline' has no value for the prompt '{prompt}': add it to 'by_prompt', or give the "
                "'value' of all prompts that are not in it."
            )
        return baseline

    def words(self) -> str:
        """Return `judge - 0.5`, or `judge - baseline` for a table."""
        baseline = "baseline" if self.by_prompt or self.default is None else f"{self.default:g}"
        return f"{_enclosed(self.inner)} - {baseline}"


@dataclass(frozen=True)
class Product:
    """The product of several values."""

    factors: tuple[Expression, ...]

    def value(self, scores: ComponentScores, reference: ComponentScores) -> Array:
        """Return the products `(B,)`."""
        product_B: Array = np.prod([factor.value(scores, reference) for factor in self.factors], axis=0)
        return product_B

    def words(self) -> str:
        """Return `judge x redness`."""
        return " x ".join(_enclosed(factor) for factor in self.factors)


@dataclass(frozen=True)
class Term:
    """A value in a sum, normalised and then weighted."""

    inner: Expression
    weight: float = 1.0
    normalisation: Normalisation = "raw"

    def value(self, scores: ComponentScores, reference: ComponentScores) -> Array:
        """Return the weighted values `(B,)`."""
        value_B = self.inner.value(scores, reference)
        if self.normalisation != "raw":
            pool = self.inner.value(reference, reference)
            value_B = (z_score if self.normalisation == "z-score" else rank)(value_B, pool)
        return self.weight * value_B

    def words(self) -> str:
        """Return `10 judge` or `10 rank(judge)`."""
        raw = self.normalisation == "raw"
        inner = _enclosed(self.inner) if raw else f"{self.normalisation}({self.inner.words()})"
        return inner if self.weight == 1 else f"{self.weight:g} {inner}"


@dataclass(frozen=True)
class WeightedSum:
    """The sum of normalised, weighted values."""

    terms: tuple[Term, ...]

    def value(self, scores: ComponentScores, reference: ComponentScores) -> Array:
        """Return the sums `(B,)`."""
        total_B: Array = np.sum([term.value(scores, reference) for term in self.terms], axis=0)
        return total_B

    def words(self) -> str:
        """Return `0.5 jpeg-compressibility + 10 judge`."""
        return " + ".join(term.words() for term in self.terms).replace("+ -", "- ")


@dataclass(frozen=True)
class CombinedReward:
    """A reward made of rewards."""

    name: str
    """That of its outermost combinator."""
    expression: Expression
    components: Mapping[str, NamedReward]
    """What the leaves of the expression name, each of which scores every sample once."""
    spec: Mapping[Any, Any]
    """What it was loaded from."""

    @property
    def key(self) -> str:
        """The name in metrics."""
        return self.name

    @property
    def media(self) -> tuple[str, ...] | None:
        """Names of the media that every component can score; None: any."""
        limited = [reward.media for reward in self.components.values() if reward.media is not None]
        return tuple(name for name in limited[0] if all(name in media for media in limited)) if limited else None

    @property
    def label(self) -> str:
        """The formula in short."""
        return self.expression.words()

    def combine(self, scores: ComponentScores, reference: ComponentScores | None = None) -> Array:
        """Return the rewards `(B,)`; normalisations are over `reference`, None: over `scores` itself.

        Raises RewardError when a prompt lacks a baseline.
        """
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is an error of its own (`combine`)
            return self.expression.value(scores, scores if reference is None else reference)


def z_score(value_B: Array, pool: Array) -> Array:
    """Return (value - mean) / std with the population statistics of `pool`; 0 where the pool does not differ."""
    std = pool.std()
    if std <= _CONSTANT * np.abs(pool).max():
        return np.zeros_like(value_B)
    z_B: Array = (value_B - pool.mean()) / std
    return z_B


def rank(value_B: Array, pool: Array) -> Array:
    """Return the share of `pool` below each value, ties counting half: in (0, 1), on average 0.5 within the pool."""
    ordered = np.sort(pool)
    below_B, up_to_B = np.searchsorted(ordered, value_B, "left"), np.searchsorted(ordered, value_B, "right")
    rank_B: Array = (below_B + up_to_B) / (2 * len(pool))
    return rank_B


def _enclosed(expression: Expression) -> str:
    words = expression.words()
    return f"({words})" if " " in words else words
