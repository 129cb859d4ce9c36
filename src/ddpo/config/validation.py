"""From plain values to a configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from ddpo.algorithms import algorithm_class
from ddpo.config.explanations import WORDS, explain, section_of, shown
from ddpo.config.tree import TrainConfig
from ddpo.runtime.errors import ConfigError


def parse_config(tree: Mapping[str, Any]) -> TrainConfig:
    """Return the configuration of a tree of plain values.

    Raises:
        ConfigError: unknown key, wrong type or impossible combination, with the path of the key.
    """
    _check_truth_values(tree)
    try:
        return TrainConfig.model_validate(dict(tree))
    except ValidationError as error:
        raise ConfigError(explain(error, TrainConfig)) from None


def _check_truth_values(tree: Mapping[str, Any]) -> None:
    """Raise ConfigError where true or false stands for a number: pydantic would take it for 1 or 0."""
    for path, value, annotation in _settings(tree, TrainConfig, ()):
        numbers = {int, float} & {annotation, *get_args(annotation)}
        if isinstance(value, bool) and numbers and bool not in get_args(annotation):
            words = WORDS["float" if float in numbers else "int"]({})
            raise ConfigError(f"{'.'.join(path)}: {words} (given: {shown(value)}).")


def _settings(tree: Mapping[Any, Any], section: type[BaseModel], path: Sequence[str]) -> Iterator[tuple[Any, Any, Any]]:
    """Yield path, value and annotation of every setting in a tree that the section knows."""
    for key, value in tree.items():
        field = section.model_fields.get(key) if isinstance(key, str) else None
        if field is None:
            continue
        inner = section_of(field.annotation)
        if key == "algorithm" and isinstance(value, Mapping):
            inner = algorithm_class(value.get("name"))
        if inner is not None and isinstance(value, Mapping):
            yield from _settings(value, inner, (*path, key))
        else:
            yield (*path, key), value, field.annotation
