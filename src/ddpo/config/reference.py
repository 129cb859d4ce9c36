"""Every setting of a run, with its default and what it is: the configuration tree, read aloud."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel

from ddpo.algorithms import ALGORITHMS
from ddpo.config.explanations import section_of
from ddpo.config.tree import TrainConfig


@dataclass(frozen=True)
class Setting:
    """What can stand left of the `=` in `ddpo train KEY=VALUE`."""

    key: str
    default: str
    """As it is written in YAML."""
    text: str


def settings() -> Iterator[Setting]:
    """Yield every setting in the order of the tree; those of an algorithm say whose they are."""
    for setting in _settings_of(TrainConfig):
        if setting.key != "algorithm":
            yield setting
            continue
        yield Setting("algorithm", TrainConfig().algorithm.name, setting.text)
        for name, kind in ALGORITHMS.items():
            own = (each for each in _settings_of(kind, "algorithm.") if each.key != "algorithm.name")
            yield from (Setting(each.key, each.default, f"({name}) {each.text}") for each in own)


def _settings_of(section: type[BaseModel], prefix: str = "") -> Iterator[Setting]:
    for name, field in section.model_fields.items():
        inner = section_of(field.annotation) if name != "algorithm" else None
        if inner is not None:
            yield from _settings_of(inner, f"{prefix}{name}.")
        else:
            text = " ".join((field.description or "").split()) + _choices(field.annotation)
            yield Setting(f"{prefix}{name}", _as_yaml(field.get_default(call_default_factory=True)), text)


def _choices(annotation: Any) -> str:
    """Return a sentence with the values that a setting of few may have."""
    literals = [kind for kind in (annotation, *get_args(annotation)) if get_origin(kind) is Literal]
    values = [str(value) for kind in literals for value in get_args(kind)]
    return f" One of {', '.join(values)}." if len(values) > 1 else ""


def _as_yaml(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    if isinstance(plain, BaseModel):
        return ""
    return yaml.safe_dump(plain, default_flow_style=True, width=1000).partition("\n")[0]


def as_page() -> str:
    """Return docs/settings.md."""
    cells = ((f"`{each.key}`", f"`{each.default}`", each.text.replace("|", "\\|")) for each in settings())
    rows = "\n".join(f"| {' | '.join(row)} |" for row in cells)
    return f"""# Settings

What a configuration file holds, and what `ddpo train KEY=VALUE` takes. Defaults are the paper's wherever it states a
value; a recipe (`ddpo list recipes`) sets others, and `ddpo train RECIPE --dry-run` says what a run would do with them.
`ddpo list settings [PREFIX]` prints the same in a terminal.

| setting | default | what it is |
|---|---|---|
{rows}
"""
