"""What is wrong with a configuration, in one sentence with the path of the key."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from ddpo.algorithms import Algorithm, algorithm_class
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
WORDS: dict[str, Callable[[_Context], str]] = {
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


def explain(error: ValidationError, section: type[BaseModel], prefix: Sequence[str] = ()) -> str:
    """Put the first problem of validating a section, which stands at `prefix`, into one sentence with its key."""
    problem = error.errors(include_url=False)[0]
    inner = [str(part) for part in problem["loc"]]
    path = [*prefix, *inner]
    for union, words in _UNIONS.items():
        if tuple(path[: len(union)]) == union:  # behind it pydantic names the kinds of value it tried
            return f"{'.'.join(union)}: {words} (given: {shown(problem['input'])})."
    where = ".".join(path)
    if problem["type"] == "extra_forbidden":
        valid = _fields_at(section, inner[:-1])
        hint = nearest(inner[-1], valid) or f" Valid: {', '.join(valid)}."
        return f"{where}: unknown key.{hint}"
    if problem["type"] == "value_error":
        message = problem["msg"].removeprefix("Value error, ")
        return f"{where}: {message}." if where else f"{message}."
    return f"{where}: {words_of(problem)} (given: {shown(problem['input'])})."


def words_of(problem: Any) -> str:
    """Return what is wrong, in words to stand behind the key."""
    kind = problem["type"]
    words = WORDS.get(kind) or WORDS.get(kind.partition("_")[0])
    return problem["msg"] if words is None else words(problem.get("ctx", {}))


def shown(value: Any) -> str:
    """Return a value as it stands in YAML, shortened."""
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother = 2, LONGEST_SHOWN, LONGEST_SHOWN
    text = short.repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]} ..."


def _fields_at(section: type[BaseModel], path: Sequence[str]) -> list[str]:
    """Return the valid keys of the part of a section at `path`."""
    part: Any = section
    for key in path:
        part = section_of(part.model_fields[key].annotation)
    return list(part.model_fields)


def section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the section that an annotation stands for; None where it is a single value or one of several."""
    kinds = [kind for kind in (annotation, *get_args(annotation)) if hasattr(kind, "model_fields")]
    return kinds[0] if len(kinds) == 1 else None


def algorithm_section(value: Any) -> Any:
    """Return the algorithm that a name or a mapping stands for; anything else as it is.

    Raises:
        ConfigError: there is no such algorithm, or a setting of it is wrong.
    """
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping):
        if isinstance(value, Algorithm):
            return value
        raise ConfigError(f"algorithm: {WORDS['dict']({})} (given: {shown(value)}).")
    kind = algorithm_class(value.get("name"))
    try:
        return kind.model_validate(dict(value))
    except ValidationError as error:
        raise ConfigError(explain(error, kind, ("algorithm",))) from None
