"""From a configuration to a combination of rewards: `{judge: 10, my.py:redness: 0.5}`, `{name: clip, ...}`."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ddpo.rewards.cached import SIZE, Cached
from ddpo.rewards.combinators import (
    NORMALISATIONS,
    Baseline,
    Clip,
    CombinedReward,
    Component,
    Expression,
    Normalisation,
    Product,
    Term,
    WeightedSum,
)
from ddpo.rewards.contract import NamedReward
from ddpo.runtime.errors import RewardError, nearest
from ddpo.runtime.plugins import anchored, reference

LoadPlain = Callable[[Any], NamedReward]
"""Loads a reward that is no combination."""
_SUM = "sum"
"""The combinator that a mapping from rewards to weights stands for."""
_TERM = ("weight", "normalise", "clip")
"""Settings of a sum's term that stand beside those of its reward."""


def is_combination(spec: object) -> bool:
    """Return whether `spec` is a mapping that combines rewards."""
    return _names_combinator(spec) or is_weighted_sum(spec)


def is_weighted_sum(spec: object) -> bool:
    """Return whether `spec` is the short form of a weighted sum: a number for each reward, and no name."""
    if not isinstance(spec, Mapping) or not spec or "name" in spec:
        return False
    return all(_as_number(value) is not None for value in spec.values())


def available_combinators() -> list[tuple[str, str]]:
    """Return `(name, one-line description)` of everything that makes a reward of rewards."""
    return [(name, combinator.description) for name, combinator in _COMBINATORS.items()]


def load_combination(spec: Mapping[Any, Any], load_plain: LoadPlain) -> CombinedReward:
    """Return the reward that a combination stands for; equal rewards in it are one component, scored once.

    Raises RewardError for an unknown or missing option, a wrong value, and whatever `load_plain` refuses.
    """
    name = str(spec.get("name", _SUM))
    builder = _Builder(load_plain, name)
    return CombinedReward(name, builder.expression(spec), builder.components, spec)


def repeatable_spec(spec: object) -> Any:
    """Return plain values that load the same reward from any folder: the paths of files in it are absolute.

    What is no text, function or mapping becomes words that `load_reward` refuses.
    """
    spec = spec.spec if isinstance(spec, CombinedReward) else spec
    if isinstance(spec, str):
        return anchored(spec)
    if not isinstance(spec, Mapping):
        return reference(spec)
    if is_weighted_sum(spec):
        return {repeatable_spec(reward): weight for reward, weight in spec.items()}
    kinds: dict[str, Callable[[Any], Any]] = {"name": anchored}
    if _names_combinator(spec) or "name" not in spec:  # else these are options of the user's function
        kinds |= {"reward": repeatable_spec, "rewards": lambda rewards: [repeatable_spec(reward) for reward in rewards]}
    return {key: kinds[key](value) if key in kinds else value for key, value in spec.items()}


@dataclass
class _Builder:
    """Builds the tree of a combination and collects its components."""

    load_plain: LoadPlain
    name: str
    """Key of the combination, which no component may have."""
    components: dict[str, NamedReward] = field(default_factory=dict)
    cache_size: int | None = None
    """Scores kept of every component met; None: they are not."""
    _met: list[tuple[object, int | None, str]] = field(default_factory=list)

    def expression(self, spec: Any) -> Expression:
        """Return the node for anything that stands for a reward."""
        if isinstance(spec, CombinedReward):
            spec = spec.spec
        if not is_combination(spec):
            return self._component(spec)
        if is_weighted_sum(spec):
            return WeightedSum(tuple(Term(self.expression(reward), float(spec[reward])) for reward in spec))
        options = {key: value for key, value in spec.items() if key != "name"}
        combinator = _COMBINATORS[spec["name"]]
        _check_options(spec["name"], options, combinator)
        return combinator.build(self, options)

    def _component(self, spec: Any) -> Component:
        same = {"name": spec} if isinstance(spec, str) else spec
        for met, cache_size, key in self._met:
            if met == same and cache_size == self.cache_size:
                return Component(key)
        reward = self.load_plain(spec)
        if self.cache_size is not None:
            reward = replace(reward, function=Cached(reward.function, self.cache_size))
        key = self._free_key(reward.key)
        self.components[key] = reward
        self._met.append((same, self.cache_size, key))
        return Component(key)

    def _free_key(self, key: str) -> str:
        taken, number, free = {self.name, *self.components}, 1, key
        while free in taken:
            number += 1
            free = f"{key}-{number}"
        return free


@dataclass(frozen=True)
class _Combinator:
    build: Callable[[_Builder, dict[str, Any]], Expression]
    options: tuple[str, ...]
    required: str
    """The option that holds what is combined."""
    description: str


def _sum(builder: _Builder, options: dict[str, Any]) -> Expression:
    return WeightedSum(tuple(_term(builder, spec) for spec in _list(_SUM, options["rewards"])))


def _term(builder: _Builder, spec: Any) -> Term:
    """Return a term from a reward with the settings of `_TERM` beside its own, or in `reward`."""
    if not isinstance(spec, Mapping) or is_weighted_sum(spec):
        return Term(builder.expression(spec))
    rest = {key: value for key, value in spec.items() if key not in _TERM}
    try:
        inner = builder.expression(rest["reward"] if set(rest) == {"reward"} else rest)
    except RewardError as error:
        meant = "".join(nearest(str(key), _TERM) for key in rest if key not in ("name", "reward"))
        raise RewardError(f"{error}{meant}") from None
    if "clip" in spec:
        inner = Clip(inner, *_bounds(_SUM, spec["clip"]))
    return Term(inner, _number(_SUM, "weight", spec.get("weight", 1)), _normalisation(spec.get("normalise", "raw")))


def _product(builder: _Builder, options: dict[str, Any]) -> Expression:
    return Product(tuple(builder.expression(spec) for spec in _list("product", options["rewards"])))


def _clip(builder: _Builder, options: dict[str, Any]) -> Expression:
    return Clip(builder.expression(options["reward"]), *_bounds("clip", [options.get("low"), options.get("high")]))


def _baseline(builder: _Builder, options: dict[str, Any]) -> Expression:
    table = options.get("by_prompt", {})
    if not isinstance(table, Mapping):
        raise RewardError(f"Reward 'baseline': by_prompt is {table!r}; give a number for each prompt, {{a cat: 0.5}}.")
    by_prompt = {str(prompt): _number("baseline", f"by_prompt of '{prompt}'", table[prompt]) for prompt in table}
    default = options.get("value")
    if default is None and not by_prompt:
        raise RewardError("Reward 'baseline' needs a 'value', or numbers 'by_prompt'.")
    default = None if default is None else _number("baseline", "value", default)
    return Baseline(builder.expression(options["reward"]), default, by_prompt)


def _cached(builder: _Builder, options: dict[str, Any]) -> Expression:
    """Return the node of the wrapped reward, each of whose components remembers scores."""
    size = options.get("size", SIZE)
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise RewardError(f"Reward 'cached': size is {size!r}; give the number of scores to keep, 1 or more.")
    outside, builder.cache_size = builder.cache_size, size
    try:
        return builder.expression(options["reward"])
    finally:
        builder.cache_size = outside


_COMBINATORS = {
    _SUM: _Combinator(
        _sum,
        ("rewards",),
        "rewards",
        "weighted sum; each of `rewards` may have a weight, normalise (raw, z-score, rank) and clip: [low, high]",
    ),
    "product": _Combinator(_product, ("rewards",), "rewards", "product of `rewards`"),
    "clip": _Combinator(_clip, ("reward", "low", "high"), "reward", "`reward` held between `low` and `high`"),
    "baseline": _Combinator(
        _baseline,
        ("reward", "value", "by_prompt"),
        "reward",
        "`reward` minus a `value`, or minus the prompt's number in `by_prompt`",
    ),
    "cached": _Combinator(
        _cached, ("reward", "size"), "reward", "`reward`, which scores the same sample once; `size` scores are kept"
    ),
}


def _names_combinator(spec: object) -> bool:
    name = spec.get("name") if isinstance(spec, Mapping) else None
    return isinstance(name, str) and name in _COMBINATORS


def _check_options(name: str, options: Collection[str], combinator: _Combinator) -> None:
    for option in options:
        if option not in combinator.options:
            known = f" Its options: {', '.join(combinator.options)}."
            raise RewardError(
                f"Reward '{name}' has no option '{option}'.{nearest(str(option), combinator.options)}{known}"
            )
    if combinator.required not in options:
        raise RewardError(f"Reward '{name}' needs the option '{combinator.required}': what it is made of.")


def _list(name: str, rewards: Any) -> list[Any]:
    if not isinstance(rewards, list | tuple) or not rewards:
        raise RewardError(f"Reward '{name}': rewards is {rewards!r}; give a list of rewards, [judge, my.py:redness].")
    return list(rewards)


def _bounds(name: str, bounds: Any) -> tuple[float | None, float | None]:
    if not isinstance(bounds, list | tuple) or len(bounds) != 2 or list(bounds) == [None, None]:
        wanted = "give low, high or both" if name == "clip" else "give clip as [low, high], null for no bound"
        raise RewardError(f"Reward '{name}' has no bounds to clip to: {wanted}.")
    low, high = (None if bound is None else _number(name, "a bound to clip to", bound) for bound in bounds)
    if low is not None and high is not None and low >= high:
        raise RewardError(f"Reward '{name}' clips to [{low:g}, {high:g}]: the first bound must be the lower one.")
    return low, high


def _normalisation(value: Any) -> Normalisation:
    for known in NORMALISATIONS:
        if value == known:
            return known
    raise RewardError(
        f"Reward '{_SUM}': there is no normalisation {value!r}.{nearest(str(value), NORMALISATIONS)} "
        f"Known: {', '.join(NORMALISATIONS)}."
    )


def _number(name: str, option: str, value: Any) -> float:
    number = _as_number(value)
    if number is None:
        raise RewardError(f"Reward '{name}': {option} is {value!r}; give a finite number.")
    return number


def _as_number(value: object) -> float | None:
    """Return `value` as a finite float, None where it is none; text counts, since YAML reads 1e-3 as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
