"""The prompt sources that have a name, and loading of any prompts from their configuration."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ddpo.core.prompt import Prompt
from ddpo.prompts.animals import activities, hard_animals, imagenet_animals, simple_animals
from ddpo.prompts.counting import counting
from ddpo.prompts.files import from_file, from_function, from_list, no_prompts
from ddpo.prompts.objects import everyday_objects
from ddpo.prompts.source import PromptSource
from ddpo.runtime.errors import PromptError, nearest
from ddpo.runtime.files import expanded, is_file, is_folder
from ddpo.runtime.plugins import is_plugin, load_object

_REGISTRY: dict[str, tuple[Callable[..., PromptSource], str]] = {
    "simple-animals": (
        simple_animals,
        'the 45 common animals, "a cat", "an ant" (paper F.7); part: all | train | held-out',
    ),
    "imagenet-animals": (imagenet_animals, 'the 398 animal classes of ImageNet, "a tench"'),
    "activities": (
        activities,
        'the 45 animals doing 3 things, "a cat riding a bike" (paper D.3); wording: paper | reference-code',
    ),
    "counting": (
        counting,
        'the 45 animals 2 to 9 times, "three cats", with the question for the reward vqa; low, high: 2 to 99',
    ),
    "hard-animals": (hard_animals, 'the 9 animals that the embedded model draws worst (its card), "a goat"'),
    "everyday-objects": (everyday_objects, '20 things that are no animals, "a house", "an umbrella"'),
    "none": (no_prompts, "no prompt, for unconditional models"),
}


PromptSpec = (
    str | Path | PromptSource | Sequence[str | Mapping[str, Any] | Prompt] | Mapping[str, Any] | Callable[..., Any]
)
"""Anything that stands for prompts in a configuration or in Python."""


def available_prompts() -> list[tuple[str, str]]:
    """Return `(name, one-line description)` of every prompt source that has a name."""
    return [(name, description) for name, (_, description) in _REGISTRY.items()]


def load_prompts(spec: PromptSpec) -> PromptSource:
    """Return the prompts that `spec` stands for.

    `spec` is a name of `available_prompts()`, a path of a .txt or .jsonl file, `path/to/file.py:function`, a function,
    a list of prompts (texts, mappings as in a JSONL file, `Prompt`s), or a mapping `{name: ..., option: value, ...}`.
    A function is called with the options and returns a list of prompts.

    Raises PromptError for an unknown name or option, for a file that is missing, malformed or empty, and for a function
    that fails.
    """
    if isinstance(spec, PromptSource):
        return spec
    if isinstance(spec, Mapping):
        options = dict(spec)
        name = options.pop("name", None)
        if not isinstance(name, str):
            raise PromptError(f"Prompts given as a mapping need a 'name' that is text, not {name!r}.")
        return _load_name(name, options)
    if isinstance(spec, str | Path):
        return _load_name(str(spec), {})
    if callable(spec):
        return from_function(getattr(spec, "__name__", "function"), spec, {})
    return from_list(spec)


def _load_name(name: str, options: dict[str, Any]) -> PromptSource:
    if name in _REGISTRY:
        source, _ = _REGISTRY[name]
    elif name.lower().endswith((".txt", ".jsonl")) or is_file(expanded(name)) or is_folder(expanded(name)):
        source = functools.partial(from_file, name)
    elif is_plugin(name):
        return from_function(name, load_object(name, "Prompts", PromptError), options)
    else:
        raise PromptError(
            f"Unknown prompts '{name}'.{nearest(name, _REGISTRY)} Known: {', '.join(_REGISTRY)}, "
            "or a .txt or .jsonl file, a list, or your own as path/to/file.py:function."
        )
    valid = list(inspect.signature(source).parameters)
    for option in options:
        if option not in valid:
            known = f" Their options: {', '.join(valid)}." if valid else " They have no options."
            raise PromptError(f"Prompts '{name}' have no option '{option}'.{nearest(option, valid)}{known}")
    return source(**options)
