"""Recipes, YAML files and `key=value` overrides."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from ddpo.config.tree import TrainConfig
from ddpo.config.validation import parse_config
from ddpo.errors import ConfigError, nearest

RECIPES = resources.files("ddpo") / "recipes"
DEFAULT_RECIPE = "emoji-compressibility"
"""What `ddpo train` runs when given nothing."""


def load_config(source: str | Path | None = None, overrides: Sequence[str] = ()) -> TrainConfig:
    """Return the configuration of a recipe's name or a YAML file, with `key.path=value` overrides on top.

    Naming another algorithm, reward, prompt source or model (`algorithm.name=ddpo-sf`, or `algorithm=ddpo-sf` for
    short) drops the section's other settings, which belong to the former name.

    Raises:
        ConfigError: no such recipe or file, malformed YAML or override, or a configuration that cannot run.
    """
    name = str(source) if source is not None else DEFAULT_RECIPE
    tree = _read(name)
    recipe = copy.deepcopy(tree)
    for override in overrides:
        _apply(tree, override)
    if tree.get("name") is None:
        tree["name"] = _run_name(Path(name).stem, recipe, tree)
    return parse_config(tree)


def recipes() -> Iterator[tuple[str, str]]:
    """Yield each shipped recipe's name and the first comment line of its file, by name."""
    for file in sorted(RECIPES.iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".yaml"):
            first = file.read_text(encoding="utf-8").partition("\n")[0]
            yield file.name.removesuffix(".yaml"), first.lstrip("# ")


def _read(name: str) -> dict[str, Any]:
    names = [recipe for recipe, _ in recipes()]
    path = Path(name).expanduser()
    if name in names:
        text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    elif path.is_file():
        text = path.read_text(encoding="utf-8", errors="replace")
    elif path.suffix in (".yaml", ".yml") or "/" in name:
        raise ConfigError(f"There is no configuration file {path}.")
    else:
        raise ConfigError(f"There is no recipe '{name}'.{nearest(name, names)} `ddpo list recipes` shows them.")
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict | None):
        raise ConfigError(f"{path} must hold keys and values, not a {type(tree).__name__}.")
    return tree or {}


def _run_name(recipe_name: str, recipe: Mapping[str, Any], tree: Mapping[str, Any]) -> str:
    """Return the recipe's name, or what the run trains where that differs: `redness`, `redness-ddpo-sf`."""

    def name_of(section: Any) -> str:
        return str(section.get("name") if isinstance(section, dict) else section)

    reward, algorithm = name_of(tree.get("reward")), name_of(tree.get("algorithm"))
    name = recipe_name if reward == name_of(recipe.get("reward")) else reward.rpartition(":")[2]
    changed = algorithm != name_of(recipe.get("algorithm"))
    return re.sub(r"[^\w.-]+", "-", f"{name}-{algorithm}" if changed else name).strip("-")


_NAMED_SECTIONS = ("algorithm", "reward", "prompts", "model")
"""Sections whose `name` decides what else they may hold: naming another drops the rest."""
_SECTIONS_WITH_NAME = (*_NAMED_SECTIONS, "sampler", "advantage")
"""Sections for which a bare value is their name."""
_EXCLUSIVE = {"clip_range": "clip_nats", "clip_nats": "clip_range"}
"""Settings of an algorithm of which an override of one drops the other."""


def _apply(tree: dict[str, Any], override: str) -> None:
    """Set one `key.path=value` in the tree."""
    path, separator, text = override.partition("=")
    keys = path.strip().split(".")
    if not separator or not all(keys):
        raise ConfigError(f"'{override}' is not of the form key=value, such as learning_rate=3e-4.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    section = keys[0]
    if section in _SECTIONS_WITH_NAME:
        if isinstance(tree.get(section), str):
            tree[section] = {"name": tree[section]}
        if len(keys) == 1 and isinstance(value, str):
            keys = [section, "name"]
        if section in _NAMED_SECTIONS and keys[1:] == ["name"]:
            _keep_if_named(tree, section, value)
    _set(tree, keys, value)


def _keep_if_named(tree: dict[str, Any], section: str, name: Any) -> None:
    """Empty a section unless it already has this name."""
    present = tree.get(section)
    if not (isinstance(present, dict) and present.get("name") == name):
        tree[section] = {}
        if section == "algorithm":  # how many updates an iteration has is the algorithm's own choice
            tree.pop("updates_per_iteration", None)


def _set(tree: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    for depth, key in enumerate(keys[:-1]):
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{'.'.join(keys[: depth + 1])}: is a single value and has no key '{keys[depth + 1]}'.")
    if keys[0] == "algorithm" and keys[-1] in _EXCLUSIVE:
        tree.pop(_EXCLUSIVE[keys[-1]], None)
    tree[keys[-1]] = value
