"""Rewards made of rewards: `{judge: 10, my.py:redness: 0.5}`, `{name: clip, ...}`.

A combination is a formula of what its components scored. It is evaluated once for the samples of all parts and
processes, because ranks and z-scores depend on all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeGuard

import numpy as np
from pydantic import Field

from ddpo.rewards.cached import SIZE, Cached
from ddpo.rewards.contract import Array, CombinedReward, ComponentScores, NamedReward
from ddpo.rewards.options import Options, parse_options
from ddpo.runtime.errors import RewardError, nearest
from ddpo.runtime.plugins import anchored, reference

Bound = float | None
_CONSTANT = 1e-9
"""A standard deviation below this share of the largest value is rounding: the values do not differ."""


def is_combination(spec: object) -> TypeGuard[Mapping[Any, Any]]:
    """Return whether `spec` is a mapping that combines rewards."""
    return _names_combinator(spec) or _is_weighted_sum(spec)


def available_combinators() -> list[tuple[str, str]]:
    """Return `(name, one-line description)` of everything that makes a reward of rewards."""
    return [(name, str(kind.__doc__).rstrip(".")) for name, kind in _COMBINATORS.items()]


def load_combination(spec: Mapping[Any, Any], load_plain: Callable[[Any], NamedReward]) -> CombinedReward:
    """Return the reward that a combination stands for; equal rewards in it are one component, scored once.

    Raises RewardError for an unknown or missing option, a wrong value, and whatever `load_plain` refuses, which loads
    the rewards that are no combinations.
    """
    name = str(spec.get("name", "sum"))
    builder = _Builder(load_plain, name)
    formula = builder.formula(spec)
    return CombinedReward(name, formula.words, formula.value, builder.components, spec)


def repeatable_spec(spec: object) -> Any:
    """Return plain values that load the same reward from any folder: the paths of files in it are absolute.

    What is no text, function or mapping becomes words that `load_reward` refuses.
    """
    spec = spec.spec if isinstance(spec, CombinedReward) else spec
    if isinstance(spec, str):
        return anchored(spec)
    if not isinstance(spec, Mapping):
        return reference(spec)
    if _is_weighted_sum(spec):
        return {repeatable_spec(reward): weight for reward, weight in spec.items()}
    kinds: dict[str, Callable[[Any], Any]] = {"name": anchored}
    if _names_combinator(spec) or "name" not in spec:  # else these are options of the user's function
        kinds |= {"reward": repeatable_spec, "rewards": lambda rewards: [repeatable_spec(reward) for reward in rewards]}
    return {key: kinds[key](value) if key in kinds else value for key, value in spec.items()}


@dataclass(frozen=True)
class Formula:
    """How rewards follow from the scores of components."""

    words: str
    """In short, for tables and figures: `0.5 jpeg-compressibility + 10 judge`."""
    value: Callable[[ComponentScores, ComponentScores], Array]
    """See `CombinedReward.value`."""

    @property
    def enclosed(self) -> str:
        """The words, in brackets where there are several."""
        return f"({self.words})" if " " in self.words else self.words


class _Builder:
    """Builds the formula of a combination and collects the components that it names."""

    def __init__(self, load_plain: Callable[[Any], NamedReward], name: str) -> None:
        """`name` is the key of the combination, which no component may have."""
        self._load_plain, self._name = load_plain, name
        self.components: dict[str, NamedReward] = {}
        self.cache_size: int | None = None
        """Scores kept of every component met; None: they are not."""
        self._met: list[tuple[object, int | None, str]] = []

    def formula(self, spec: Any) -> Formula:
        """Return the formula of anything that stands for a reward."""
        if isinstance(spec, CombinedReward):
            spec = spec.spec
        if _is_weighted_sum(spec):
            return _added([_weighted(self.formula(reward), float(weight)) for reward, weight in spec.items()])
        if not _names_combinator(spec):
            key = self._component(spec)
            return Formula(key, lambda scores, _: scores.by_key[key])
        name = spec["name"]
        options = {key: value for key, value in spec.items() if key != "name"}
        return parse_options(_COMBINATORS[name], name, options).formula(self)

    def _component(self, spec: Any) -> str:
        """Return the key of a reward that is no combination."""
        same = {"name": spec} if isinstance(spec, str) else spec
        for met, cache_size, key in self._met:
            if met == same and cache_size == self.cache_size:
                return key
        reward = self._load_plain(spec)
        if self.cache_size is not None:
            reward = replace(reward, function=Cached(reward.function, self.cache_size))
        key, number = reward.key, 1
        while key == self._name or key in self.components:
            number += 1
            key = f"{reward.key}-{number}"
        self.components[key] = reward
        self._met.append((same, self.cache_size, key))
        return key


class _Sum(Options):
    """weighted sum; each of `rewards` may have a weight, normalise (raw, z-score, rank) and clip: [low, high]."""

    rewards: list[Any] = Field(min_length=1)

    def formula(self, builder: _Builder) -> Formula:
        return _added([_term(builder, spec) for spec in self.rewards])


class _Term(Options):
    """What a term of a sum may have beside its reward and that reward's own options."""

    weight: float = 1.0
    normalise: Literal["raw", "z-score", "rank"] = "raw"
    clip: tuple[Bound, Bound] | None = None


class _Product(Options):
    """product of `rewards`."""

    rewards: list[Any] = Field(min_length=1)

    def formula(self, builder: _Builder) -> Formula:
        factors = [builder.formula(spec) for spec in self.rewards]
        words = " x ".join(factor.enclosed for factor in factors)
        return Formula(words, lambda *scores: np.prod([factor.value(*scores) for factor in factors], axis=0))


class _Clip(Options):
    """`reward` held between `low` and `high`."""

    reward: Any
    low: Bound = None
    high: Bound = None

    def formula(self, builder: _Builder) -> Formula:
        return _clipped(builder.formula(self.reward), self.low, self.high)


class _Cached(Options):
    """`reward`, which scores the same sample once; `size` scores are kept."""

    reward: Any
    size: int = Field(default=SIZE, ge=1)

    def formula(self, builder: _Builder) -> Formula:
        outside, builder.cache_size = builder.cache_size, self.size
        inner = builder.formula(self.reward)
        builder.cache_size = outside
        return inner


_COMBINATORS: dict[str, type[_Sum | _Product | _Clip | _Cached]] = {
    "sum": _Sum,
    "product": _Product,
    "clip": _Clip,
    "cached": _Cached,
}


def _term(builder: _Builder, spec: Any) -> Formula:
    """Return a term from a reward with the settings of `_Term` beside its own, or in `reward`."""
    if not isinstance(spec, Mapping) or _is_weighted_sum(spec):
        return builder.formula(spec)
    settings = {key: value for key, value in spec.items() if key in _Term.model_fields}
    rest = {key: value for key, value in spec.items() if key not in settings}
    try:
        inner = builder.formula(rest["reward"] if set(rest) == {"reward"} else rest)
    except RewardError as error:
        meant = "".join(nearest(str(key), _Term.model_fields) for key in rest if key not in ("name", "reward"))
        raise RewardError(f"{error}{meant}") from None
    term = parse_options(_Term, "sum", settings)
    if term.clip is not None:
        inner = _clipped(inner, *term.clip)
    if term.normalise == "raw":
        return _weighted(inner, term.weight)
    normalise = {"z-score": z_score, "rank": rank}[term.normalise]

    def value(scores: ComponentScores, reference: ComponentScores) -> Array:
        return normalise(inner.value(scores, reference), inner.value(reference, reference))

    return _weighted(Formula(f"{term.normalise}({inner.words})", value), term.weight, enclosed=True)


def _weighted(inner: Formula, weight: float, *, enclosed: bool = False) -> Formula:
    words = inner.words if enclosed else inner.enclosed
    words = words if weight == 1 else f"{weight:g} {words}"
    return Formula(words, lambda *scores: weight * inner.value(*scores))


def _added(terms: Sequence[Formula]) -> Formula:
    words = " + ".join(term.words for term in terms).replace("+ -", "- ")
    return Formula(words, lambda *scores: np.sum([term.value(*scores) for term in terms], axis=0))


def _clipped(inner: Formula, low: Bound, high: Bound) -> Formula:
    if low is None and high is None:
        raise RewardError("A reward is to be clipped and has no bounds: give one or both, null for none.")
    if low is not None and high is not None and low >= high:
        raise RewardError(f"A reward is clipped to [{low:g}, {high:g}]: the first bound must be the lower one.")
    words = f"at most {high:g}" if low is None else f"at least {low:g}"
    if low is not None and high is not None:
        words = f"in [{low:g}, {high:g}]"
    return Formula(f"{inner.enclosed} {words}", lambda *scores: np.clip(inner.value(*scores), low, high))


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


def _names_combinator(spec: object) -> bool:
    name = spec.get("name") if isinstance(spec, Mapping) else None
    return isinstance(name, str) and name in _COMBINATORS


def _is_weighted_sum(spec: object) -> bool:
    """Return whether `spec` is the short form of a weighted sum: a number for each reward, and no name."""
    if not isinstance(spec, Mapping) or not spec or "name" in spec:
        return False
    return all(_is_number(value) for value in spec.values())


def _is_number(value: object) -> bool:
    """Return whether `value` is a finite number; text counts, since YAML reads 1e-3 as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return False
    try:
        return math.isfinite(float(value))
    except (ValueError, OverflowError):
        return False
