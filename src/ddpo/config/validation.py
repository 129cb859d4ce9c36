"""From plain values to a configuration, and what is wrong with them in one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import ValidationError

from ddpo.algorithms import ALGORITHMS
from ddpo.config.tree import TrainConfig
from ddpo.errors import ConfigError, nearest

_UNIONS = ("prompts", "reward")
"""Keys that hold a text, a list or a mapping."""


def parse_config(tree: Mapping[str, Any]) -> TrainConfig:
    """Return the configuration of a tree of plain values.

    Raises:
        ConfigError: unknown key, wrong type or impossible combination, with the path of the key.
    """
    try:
        return TrainConfig.model_validate(dict(tree))
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def _explain(error: ValidationError) -> str:
    """Put the first problem of a validation into one sentence with the path of its key."""
    problem = error.errors()[0]
    tags = set(ALGORITHMS)
    path = [str(part) for part in problem["loc"] if not (part in tags and "algorithm" in problem["loc"])]
    if path and path[0] in _UNIONS:
        path = path[:1]  # behind it pydantic names the kinds of value it tried
    where = ".".join(path)
    if problem["type"] == "extra_forbidden":
        valid = _fields_at(path[:-1], problem)
        hint = nearest(path[-1], valid) or f" Valid: {', '.join(valid)}."
        return f"{where}: unknown key.{hint}"
    if problem["type"] == "union_tag_invalid":
        name, names = problem["ctx"]["tag"], list(ALGORITHMS)
        return f"{where}.name: unknown algorithm '{name}'.{nearest(name, names)} Known: {', '.join(names)}."
    message = problem["msg"].removeprefix("Value error, ")
    given = "" if problem["type"] == "value_error" else f" (given: {problem['input']!r})"
    return f"{where}: {message}{given}." if where else f"{message}{given}."


def _fields_at(path: Sequence[str], problem: Any) -> list[str]:
    """Return the valid keys of the section at `path`."""
    if list(path) == ["algorithm"]:
        name = next(part for part in problem["loc"] if part in ALGORITHMS)
        return list(ALGORITHMS[name].model_fields)
    section: Any = TrainConfig
    for key in path:
        annotation = section.model_fields[key].annotation
        section = next((kind for kind in (annotation, *get_args(annotation)) if hasattr(kind, "model_fields")), None)
    return list(section.model_fields)
