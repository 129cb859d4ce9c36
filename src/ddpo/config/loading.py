"""Recipes, YAML files and `key=value` overrides."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddpo.config.layers import (
    EXCLUSIVE,
    NAMED_SECTIONS,
    SECTIONS_WITH_NAME,
    algorithm_of,
    compose,
    level_of,
    name_of,
    read_levels,
    shortened,
)
from ddpo.config.reading import read_yaml
from ddpo.config.tree import TrainConfig
from ddpo.config.validation import parse_config
from ddpo.policies.loading import EMBEDDED
from ddpo.rewards import names_rewards
from ddpo.runtime.errors import ConfigError, ModelError
from ddpo.runtime.plugins import load_object

log = logging.getLogger(__name__)
DEFAULT_RECIPE = "emoji-compressibility"
"""What `ddpo train` runs when given nothing."""
RECIPE_OF_OTHER_MODELS = "stable-diffusion"
"""What it runs when given another model than the embedded one and no recipe."""
_ALGORITHM_KEYS = ("algorithm", "algorithm.name")
"""Overrides that name the algorithm."""
_WHOLE = ("reward", "prompts", "policy", "callbacks")
"""Settings whose mappings are values of their own, not sections with keys to change."""


def load_config(
    source: str | Path | None = None,
    overrides: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    *,
    defaults: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """Return the configuration of a recipe's name or a YAML file, with `key.path=value` overrides on top.

    Naming another algorithm, reward, prompt source or model (`algorithm.name=ddpo-sf`, or `algorithm=ddpo-sf` for
    short) drops the section's other settings, which belong to the former name. A file may build on another recipe
    (`extends: NAME`) and say what an algorithm brings along when it is the one that runs (`algorithms: {NAME: ...}`).
    `settings` are more overrides, by key, as plain values; a mapping changes what it holds of a section. Without a
    source the recipe of the model is meant, but where a policy of the user's own is named, or `defaults` are given,
    those settings (`defaults` of the policy) on top of the built-in ones.

    Raises:
        ConfigError: no such recipe or file, malformed YAML or override, or a configuration that cannot run.
    """
    changes = [*map(_split, overrides), *_flat(settings or {})]
    if source is None and defaults is None:
        defaults = _defaults_of_policy(changes)
    if defaults is None:
        name = str(source) if source is not None else _default_recipe(changes)
        levels, stem = read_levels(name), Path(name).stem
    else:
        levels, stem = [level_of(dict(defaults))], "run"
    own = algorithm_of(levels)
    recipe = compose(levels, own)
    tree = compose(levels, _named("algorithm", changes) or own)
    for keys, value in _without_superseded(changes):
        _apply(tree, keys, value)
    if tree.get("name") is None:
        tree["name"] = _run_name(stem, recipe, tree)
    return parse_config(shortened(tree))


def with_settings(config: TrainConfig, settings: Mapping[str, Any]) -> TrainConfig:
    """Return a configuration with other settings, by key; a mapping changes what it holds of a section.

    Another algorithm makes its own number of updates unless that is given too.

    Raises:
        ConfigError: an unknown key, a wrong value, or a configuration that cannot run.
    """
    tree = config.model_dump()
    tree["algorithm"] = config.algorithm.model_dump()
    changes = _flat(settings)
    if _named("algorithm", changes) not in (None, config.algorithm.name):
        tree["updates_per_iteration"] = None  # the former algorithm's
    for keys, value in changes:
        _apply(tree, keys, value)
    return parse_config(shortened(tree))


def _default_recipe(changes: Sequence[tuple[str, Any]]) -> str:
    """Return the recipe of a run that names none: that of the embedded model, or the one for other models."""
    model = _named("model", changes)
    if model in (None, EMBEDDED):
        return DEFAULT_RECIPE
    recipe = RECIPE_OF_OTHER_MODELS
    log.info("Settings that are not given are those of the recipe '%s', made for models such as %s.", recipe, model)
    return recipe


def _named(section: str, changes: Sequence[tuple[str, Any]]) -> str | None:
    """Return the name that the changes give a section last, if they do."""
    names = [name_of(value) for key, value in changes if key in (section, f"{section}.name")]
    return next((name for name in reversed(names) if name is not None), None)


def _defaults_of_policy(changes: Sequence[tuple[str, Any]]) -> Mapping[str, Any] | None:
    """Return the settings that a policy of the user's own brings along; None where there is no such policy."""
    name = _named("policy", changes)
    return None if name is None else getattr(load_object(name, "policy", ModelError), "defaults", {})


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return settings by dotted key; what has a name, or is no section, is one value."""
    rows: list[tuple[str, Any]] = []
    for key, value in settings.items():
        path = f"{prefix}{key}"
        whole = not isinstance(value, Mapping) or "name" in value or path in _WHOLE
        rows += [(path, value)] if whole else _flat(value, f"{path}.")
    return rows


def _without_superseded(changes: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Return the changes without those that name an algorithm before another one does."""
    naming = [place for place, (key, _) in enumerate(changes) if key in _ALGORITHM_KEYS]
    return [change for place, change in enumerate(changes) if place not in naming[:-1]]


def _run_name(recipe_name: str, recipe: Mapping[str, Any], tree: Mapping[str, Any]) -> str:
    """Return the recipe's name, or what the run trains where that differs: `redness`, `redness-ddpo-sf`."""

    reward, algorithm = _reward_words(tree.get("reward")), str(name_of(tree.get("algorithm")))
    name = recipe_name if reward == _reward_words(recipe.get("reward")) else reward
    changed = algorithm != str(name_of(recipe.get("algorithm")))
    return re.sub(r"[^\w.-]+", "-", f"{name}-{algorithm}" if changed else name).strip("-")


def _reward_words(section: Any) -> str:
    """Return a reward's name, of a weighted sum those in it, without their files or modules."""
    name = name_of(section)
    names = [name] if name is not None or not names_rewards(section) else list(section)
    return "-".join(_last_part(str(name)) for name in names)


def _last_part(reward: str) -> str:
    """Return the function of a reward in a file or module; of a server only that it is one."""
    return "remote" if "://" in reward else reward.rpartition(":")[2]


def _split(override: str) -> tuple[str, Any]:
    """Return key path and value of `key.path=value`; what is not YAML is text."""
    path, separator, text = override.partition("=")
    if not separator or not all(path.strip().split(".")):
        raise ConfigError(f"'{override}' is not of the form key=value, such as learning_rate=3e-4.")
    try:
        return path.strip(), read_yaml(text)
    except ValueError:
        return path.strip(), text


def _apply(tree: dict[str, Any], path: str, value: Any) -> None:
    """Set one value in the tree by its dotted key."""
    keys = path.split(".")
    section = keys[0]
    if section in SECTIONS_WITH_NAME:
        if isinstance(tree.get(section), str):
            tree[section] = {"name": tree[section]}
        if len(keys) == 1 and isinstance(value, str):
            keys = [section, "name"]
        if section in NAMED_SECTIONS and keys[1:] == ["name"]:
            _keep_if_named(tree, section, value)
    _set(tree, keys, value)


def _keep_if_named(tree: dict[str, Any], section: str, name: Any) -> None:
    """Empty a section unless it already has this name."""
    present = tree.get(section)
    if not (isinstance(present, dict) and present.get("name") == name):
        tree[section] = {}


def _set(tree: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    for depth, key in enumerate(keys[:-1]):
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{'.'.join(keys[: depth + 1])}: is a single value and has no key '{keys[depth + 1]}'.")
    if keys[0] == "algorithm" and keys[-1] in EXCLUSIVE:
        tree.pop(EXCLUSIVE[keys[-1]], None)
    tree[keys[-1]] = value
