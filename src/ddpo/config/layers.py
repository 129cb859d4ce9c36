"""Recipes and files as layers: what a file extends lies below it, what it says for the algorithm that runs on top."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from ddpo.algorithms import algorithm_class
from ddpo.config.reading import read_yaml
from ddpo.config.tree import TrainConfig
from ddpo.rewards import names_rewards
from ddpo.runtime.errors import ConfigError, nearest
from ddpo.runtime.files import expanded, is_file, is_folder

RECIPES = resources.files("ddpo.config") / "recipes"

NAMED_SECTIONS = ("algorithm", "reward", "prompts", "model", "policy")
"""Sections whose `name` decides what else they may hold: naming another drops the rest."""
SECTIONS_WITH_NAME = (*NAMED_SECTIONS, "sampler", "advantage")
"""Sections for which a bare value is their name."""
DEFAULT_ALGORITHM: str = TrainConfig.model_fields["algorithm"].default.name
EXCLUSIVE = {"clip_range": "clip_nats", "clip_nats": "clip_range"}
"""Settings of an algorithm of which giving one drops the other."""


@dataclass(frozen=True)
class Level:
    """One file."""

    tree: dict[str, Any]
    """Its settings; a section given by its bare name is a mapping here."""
    algorithms: dict[str, dict[str, Any]]
    """What it says for an algorithm, if that is the one that runs."""


def recipes() -> Iterator[tuple[str, str]]:
    """Yield each shipped recipe's name and the first comment line of its file, by name."""
    for file in sorted(RECIPES.iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".yaml"):
            first = file.read_text(encoding="utf-8").partition("\n")[0]
            yield file.name.removesuffix(".yaml"), first.lstrip("# ")


def read_levels(name: str) -> list[Level]:
    """Return a recipe or file and what it extends, the most basic first.

    Raises:
        ConfigError: one of them does not exist, is malformed, or extends itself.
    """
    levels, seen = list[Level](), set[str]()
    wanted: str | None = name
    while wanted is not None:
        if wanted in seen:
            raise ConfigError(f"extends: '{wanted}' extends itself.")
        seen.add(wanted)
        tree = _read(wanted, shared=bool(levels))
        below = tree.pop("extends", None)
        levels.insert(0, level_of(tree))
        wanted = None if below is None else _beside(wanted, below)
    return levels


def algorithm_of(levels: Sequence[Level]) -> str:
    """Return the algorithm that the levels name, the topmost one, or the default."""
    names = [name_of(level.tree.get("algorithm")) for level in levels]
    return next((name for name in reversed(names) if name is not None), DEFAULT_ALGORITHM)


def name_of(section: Any) -> str | None:
    """Return the name of a section, given as a name, a mapping, or an algorithm object."""
    name = section.get("name") if isinstance(section, dict) else getattr(section, "name", section)
    return name if isinstance(name, str) else None


def compose(levels: Sequence[Level], algorithm: str) -> dict[str, Any]:
    """Lay the levels over each other, each with what it says for `algorithm`, the one that is to run.

    Settings of an algorithm without its name belong to the one that the levels below name.
    """
    tree: dict[str, Any] = {"algorithm": {"name": algorithm}}
    present = DEFAULT_ALGORITHM
    for level in levels:
        settings = dict(level.tree)
        present = name_of(settings.get("algorithm")) or present
        if present != algorithm and "algorithm" in settings:
            del settings["algorithm"]  # settings of another one, as is how many updates an iteration has
            settings.pop("updates_per_iteration", None)
        _merge(tree, settings)
        if algorithm in level.algorithms:
            _merge(tree, level.algorithms[algorithm])
    return tree


def _merge(tree: dict[str, Any], over: Mapping[str, Any]) -> None:
    """Put settings on top of a tree; a section that takes another name begins anew."""
    for key, value in over.items():
        former = tree.get(key)
        another = key in NAMED_SECTIONS and name_of(value) not in (None, name_of(former))
        another = another or (key == "reward" and names_rewards(value))
        if not isinstance(value, dict) or not isinstance(former, dict) or another:
            tree[key] = copy.deepcopy(value)
            continue
        for setting in value if key == "algorithm" else ():
            former.pop(EXCLUSIVE.get(setting, ""), None)
        _merge(former, value)


def level_of(tree: dict[str, Any]) -> Level:
    """Return a level of a file's tree."""
    algorithms = tree.pop("algorithms", None) or {}
    if not isinstance(algorithms, dict) or not all(isinstance(part, dict | None) for part in algorithms.values()):
        raise ConfigError("algorithms: must hold names of algorithms, and settings as keys and values under each.")
    for name, settings in algorithms.items():
        try:
            algorithm_class(name)
        except ConfigError as error:
            raise ConfigError(f"algorithms: {str(error).removeprefix('algorithm.name: ')}") from None
        for key in settings or {}:
            if key not in TrainConfig.model_fields:
                raise ConfigError(f"algorithms.{name}.{key}: unknown key.{nearest(str(key), TrainConfig.model_fields)}")
    return Level(_with_names(tree), {name: _with_names(settings or {}) for name, settings in algorithms.items()})


def _with_names(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tree with a bare name of a section turned into a mapping."""
    return {
        key: {"name": value} if key in SECTIONS_WITH_NAME and isinstance(value, str) else value
        for key, value in tree.items()
    }


def shortened(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tree with reward, prompts and policy, which are kept as given, by bare name where possible."""
    return {
        key: value["name"]
        if key in ("reward", "prompts", "policy") and isinstance(value, dict) and list(value) == ["name"]
        else value
        for key, value in tree.items()
    }


def _beside(name: str, below: Any) -> str:
    """Return what a file named `name` extends: a recipe's name, or a file, found from its own folder."""
    if not isinstance(below, str):
        raise ConfigError(f"extends: must be the name of a recipe or a file, not {below!r}.")
    path = expanded(below)
    names_file = path.suffix in (".yaml", ".yml")
    return str(expanded(name).parent / path) if names_file and not path.is_absolute() else below


def _read(name: str, *, shared: bool) -> dict[str, Any]:
    """Return the tree of a recipe's name or a file; `shared`: also of the settings that only recipes build on."""
    names = [recipe for recipe, _ in recipes()]
    path = expanded(name)
    if name in names:
        text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    elif shared and (RECIPES / "shared" / f"{name}.yaml").is_file():
        text = (RECIPES / "shared" / f"{name}.yaml").read_text(encoding="utf-8")
    elif is_file(path):
        text = path.read_text(encoding="utf-8", errors="replace")
    elif is_folder(path):
        raise ConfigError(f"{path} is a folder; give a YAML file, such as the config.yaml in a run folder.")
    elif path.suffix in (".yaml", ".yml") or "/" in name:
        raise ConfigError(f"There is no configuration file {path}.")
    else:
        raise ConfigError(f"There is no recipe '{name}'.{nearest(name, names)} `ddpo list recipes` shows them.")
    try:
        tree = read_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}.") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise ConfigError(f"{path} must hold keys and values, such as iterations: 20, and the keys must be text.")
    return tree
