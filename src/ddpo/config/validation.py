"""From plain values to a configuration, and what is wrong with them in one sentence."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from ddpo.algorithms import ALGORITHMS
from ddpo.config.tree import TrainConfig
from ddpo.runtime.errors import ConfigError, nearest

_UNIONS = {
    ("prompts",): "must be a name of `ddpo list prompts`, a file, a list of prompts, or keys and values with a 'name'",
    ("reward",): "must be a name of `ddpo list rewards`, a function, a server, or keys and values",
    ("evaluation", "rewards"): "must be a list of rewards, each a name or keys and values",
}
"""What keys hold that take values of several kinds: of these pydantic would only tell the first."""

LONGEST_SHOWN = 80
"""Characters of a wrong value that are shown."""
_Context = Mapping[str, Any]
_WORDS: dict[str, Callable[[_Context], str]] = {
    "int": lambda context: "must be a whole number",
    "float": lambda context: "must be a number",
    "finite_number": lambda context: "must be a finite number",
    "bool": lambda context: "must be true or false",
    "string": lambda context: "must be text",
    "string_pattern_mismatch": lambda context: (
        "must begin with a letter or digit, and go on with letters, digits, spaces, dots and hyphens"
    ),
    "path": lambda context: "must be a path",
    "list": lambda context: "must be a list",
    "dict": lambda context: "must be keys and values",
    "model": lambda context: "must be keys and values",
    "invalid_key": lambda context: "keys must be text",
    "recursion_loop": lambda context: "must not contain itself",
    "literal_error": lambda context: f"must be {context['expected']}",
    "greater_than": lambda context: f"must be above {context['gt']:g}",
    "greater_than_equal": lambda context: f"must be at least {context['ge']:g}",
    "less_than": lambda context: f"must be below {context['lt']:g}",
    "less_than_equal": lambda context: f"must be at most {context['le']:g}",
}
"""Words for pydantic's kinds of errors; `int` stands for int_type, int_parsing and so on."""


def parse_config(tree: Mapping[str, Any]) -> TrainConfig:
    """Return the configuration of a tree of plain values.

    Raises:
        ConfigError: unknown key, wrong type or impossible combination, with the path of the key.
    """
    _check_truth_values(tree)
    try:
        return TrainConfig.model_validate(dict(tree))
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def _check_truth_values(tree: Mapping[str, Any]) -> None:
    """Raise ConfigError where true or false stands for a number: pydantic would take it for 1 or 0."""
    for path, value, annotation in _settings(tree, TrainConfig, ()):
        numbers = {int, float} & {annotation, *get_args(annotation)}
        if isinstance(value, bool) and numbers and bool not in get_args(annotation):
            words = _WORDS["float" if float in numbers else "int"]({})
            raise ConfigError(f"{'.'.join(path)}: {words} (given: {_shown(value)}).")


def _settings(tree: Mapping[Any, Any], section: type[BaseModel], path: Sequence[str]) -> Iterator[tuple[Any, Any, Any]]:
    """Yield path, value and annotation of every setting in a tree that the section knows."""
    for key, value in tree.items():
        field = section.model_fields.get(key) if isinstance(key, str) else None
        if field is None:
            continue
        inner = _section_of(field.annotation)
        if key == "algorithm" and isinstance(value, Mapping):
            inner = ALGORITHMS.get(str(value.get("name")))
        if inner is not None and isinstance(value, Mapping):
            yield from _settings(value, inner, (*path, key))
        else:
            yield (*path, key), value, field.annotation


def _explain(error: ValidationError) -> str:
    """Put the first problem of a validation into one sentence with the path of its key."""
    problem = error.errors(include_url=False)[0]
    tags = set(ALGORITHMS)
    path = [str(part) for part in problem["loc"] if not (part in tags and "algorithm" in problem["loc"])]
    for union, words in _UNIONS.items():
        if tuple(path[: len(union)]) == union:  # behind it pydantic names the kinds of value it tried
            return f"{'.'.join(union)}: {words} (given: {_shown(problem['input'])})."
    where = ".".join(path)
    if problem["type"] == "extra_forbidden":
        valid = _fields_at(path[:-1], problem)
        hint = nearest(path[-1], valid) or f" Valid: {', '.join(valid)}."
        return f"{where}: unknown key.{hint}"
    if problem["type"] in ("union_tag_invalid", "union_tag_not_found"):
        name, names = problem["ctx"].get("tag"), list(ALGORITHMS)
        unknown = "needs a 'name'." if name is None else f"unknown algorithm '{name}'.{nearest(name, names)}"
        return f"{where}.name: {unknown} Known: {', '.join(names)}."
    if problem["type"] == "value_error":
        message = problem["msg"].removeprefix("Value error, ")
        return f"{where}: {message}." if where else f"{message}."
    return f"{where}: {_words(problem)} (given: {_shown(problem['input'])})."


def _words(problem: Any) -> str:
    kind = problem["type"]
    words = _WORDS.get(kind) or _WORDS.get(kind.partition("_")[0])
    return problem["msg"] if words is None else words(problem.get("ctx", {}))


def _shown(value: Any) -> str:
    """Return a value as it stands in YAML, shortened."""
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother = 2, LONGEST_SHOWN, LONGEST_SHOWN
    text = short.repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]} ..."


def _fields_at(path: Sequence[str], problem: Any) -> list[str]:
    """Return the valid keys of the section at `path`."""
    if list(path) == ["algorithm"]:
        name = next(part for part in problem["loc"] if part in ALGORITHMS)
        return list(ALGORITHMS[name].model_fields)
    section: Any = TrainConfig
    for key in path:
        section = _section_of(section.model_fields[key].annotation)
    return list(section.model_fields)


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the section that an annotation stands for; None where it is a single value or one of several."""
    kinds = [kind for kind in (annotation, *get_args(annotation)) if hasattr(kind, "model_fields")]
    return kinds[0] if len(kinds) == 1 else None
