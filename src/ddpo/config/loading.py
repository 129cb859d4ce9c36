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
    short) drops the section's other settings, which belong to the former name. A file may build on another recipe
    (`extends: NAME`) and say what an algorithm brings along when it is the one that runs (`algorithms: {NAME: ...}`).

    Raises:
        ConfigError: no such recipe or file, malformed YAML or override, or a configuration that cannot run.
    """
    name = str(source) if source is not None else DEFAULT_RECIPE
    levels = _levels(name)
    recipe = _compose(levels, _algorithm_of(levels))
    tree = _compose(levels, _named_algorithm(overrides) or _algorithm_of(levels))
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


def _levels(name: str) -> list[dict[str, Any]]:
    """Return the trees of a recipe or file and of what it extends, the most basic first."""
    levels, seen = list[dict[str, Any]](), set[str]()
    wanted: Any = name
    while wanted is not None:
        if wanted in seen:
            raise ConfigError(f"extends: '{wanted}' extends itself.")
        seen.add(wanted)
        levels.insert(0, _read(str(wanted), shared=bool(levels)))
        wanted = levels[0].pop("extends", None)
    return levels


def _name_of(section: Any) -> str | None:
    """Return the name of a section, given as a name or a mapping."""
    name = section.get("name") if isinstance(section, dict) else section
    return name if isinstance(name, str) else None


def _algorithm_of(levels: Sequence[Mapping[str, Any]]) -> str | None:
    names = [_name_of(level.get("algorithm")) for level in levels]
    return next((name for name in reversed(names) if name is not None), None)


def _named_algorithm(overrides: Sequence[str]) -> str | None:
    """Return the algorithm that the overrides name last, if any."""
    values = [value for key, value in map(_split, overrides) if key in ("algorithm", "algorithm.name")]
    return next((name for name in map(_name_of, reversed(values)) if name is not None), None)


def _compose(levels: Sequence[Mapping[str, Any]], algorithm: str | None) -> dict[str, Any]:
    """Lay the levels over each other, each with what it says for the algorithm that is to run."""
    tree: dict[str, Any] = {}
    for level in levels:
        rest = {key: value for key, value in level.items() if key != "algorithms"}
        if _name_of(rest.get("algorithm")) not in (algorithm, None):
            del rest["algorithm"]  # settings of another one, as is how many updates an iteration has
            rest.pop("updates_per_iteration", None)
        brought = level.get("algorithms", {})
        if not isinstance(brought, dict):
            raise ConfigError("algorithms: must hold an algorithm's name and its settings.")
        for part in (rest, brought.get(algorithm) or {}):
            _merge(tree, part)
    if algorithm is not None:
        section = tree.get("algorithm")
        tree["algorithm"] = {**(section if isinstance(section, dict) else {}), "name": algorithm}
    return tree


def _merge(tree: dict[str, Any], over: Mapping[str, Any]) -> None:
    """Put the settings `over` on top of a tree; a section that has a name of its own takes the place of the former."""
    for key, value in over.items():
        former = tree.get(key)
        renamed = key in _NAMED_SECTIONS and _name_of(value) is not None
        if isinstance(value, dict) and isinstance(former, dict) and not renamed:
            _merge(former, value)
        else:
            tree[key] = copy.deepcopy(value)


def _read(name: str, *, shared: bool) -> dict[str, Any]:
    """Return the tree of a recipe's name or a file; `shared`: also of the settings that only recipes build on."""
    names = [recipe for recipe, _ in recipes()]
    path = Path(name).expanduser()
    if name in names:
        text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    elif shared and (RECIPES / "shared" / f"{name}.yaml").is_file():
        text = (RECIPES / "shared" / f"{name}.yaml").read_text(encoding="utf-8")
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

    reward, algorithm = str(_name_of(tree.get("reward"))), str(_name_of(tree.get("algorithm")))
    name = recipe_name if reward == str(_name_of(recipe.get("reward"))) else _last_part(reward)
    changed = algorithm != str(_name_of(recipe.get("algorithm")))
    return re.sub(r"[^\w.-]+", "-", f"{name}-{algorithm}" if changed else name).strip("-")


def _last_part(reward: str) -> str:
    """Return the function of a reward in a file or module; of a server only that it is one."""
    return "remote" if "://" in reward else reward.rpartition(":")[2]


_NAMED_SECTIONS = ("algorithm", "reward", "prompts", "model")
"""Sections whose `name` decides what else they may hold: naming another drops the rest."""
_SECTIONS_WITH_NAME = (*_NAMED_SECTIONS, "sampler", "advantage")
"""Sections for which a bare value is their name."""
_EXCLUSIVE = {"clip_range": "clip_nats", "clip_nats": "clip_range"}
"""Settings of an algorithm of which an override of one drops the other."""


def _split(override: str) -> tuple[str, Any]:
    """Return key path and value of `key.path=value`; what is not YAML is text."""
    path, separator, text = override.partition("=")
    if not separator:
        raise ConfigError(f"'{override}' is not of the form key=value, such as learning_rate=3e-4.")
    try:
        return path.strip(), yaml.safe_load(text)
    except yaml.YAMLError:
        return path.strip(), text


def _apply(tree: dict[str, Any], override: str) -> None:
    """Set one `key.path=value` in the tree."""
    path, value = _split(override)
    keys = path.split(".")
    if not all(keys):
        raise ConfigError(f"'{override}' is not of the form key=value, such as learning_rate=3e-4.")
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


def _set(tree: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    for depth, key in enumerate(keys[:-1]):
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"{'.'.join(keys[: depth + 1])}: is a single value and has no key '{keys[depth + 1]}'.")
    if keys[0] == "algorithm" and keys[-1] in _EXCLUSIVE:
        tree.pop(_EXCLUSIVE[keys[-1]], None)
    tree[keys[-1]] = value
