"""What a function must be like to be a reward."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from ddpo.rewards.contract import Reward
from ddpo.runtime.errors import RewardError, nearest

CALLING = ("workers", "timeout", "on_error", "retries")
"""What is no option of a reward but of how rewards are called; somebody will look for it there."""


def with_options(name: str, function: Any, options: dict[str, Any]) -> Reward:
    """Return the function with its options.

    Raises RewardError unless `function(samples, prompts, metadata, **options)` is a possible call.
    """
    if not callable(function) or inspect.isclass(function):
        kind = "a class" if inspect.isclass(function) else f"of type {type(function).__name__}"
        raise RewardError(f"Reward '{name}' is {kind}, not a function of (samples, prompts, metadata).")
    given: Reward = functools.partial(function, **options) if options else function
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some compiled callables do not tell
        return given
    parameters = list(signature.parameters.values())
    by_position = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = [*by_position[3:], *(p for p in parameters if p.kind is p.KEYWORD_ONLY)]
    valid = [p.name for p in rest if p.kind is not p.POSITIONAL_ONLY]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for option in options:
        if option not in valid and not takes_any:
            known = f" Its options: {', '.join(valid)}." if valid else " It has no options."
            hint = (
                f" How rewards are called is set by scoring.{option}." if option in CALLING else nearest(option, valid)
            )
            raise RewardError(f"Reward '{name}' has no option '{option}'.{hint}{known}")
    try:
        signature.bind(None, None, None, **options)
    except TypeError as error:
        raise RewardError(
            f"Reward '{name}' takes {signature}, but is called with (samples, prompts, metadata): {error}."
        ) from error
    return given


def media_of(name: str, function: object) -> tuple[str, ...] | None:
    """Return the names of the media that the function's attribute `media` says it takes; None without one: any.

    Raises RewardError when the attribute is something else.
    """
    media = getattr(function, "media", None)
    names = [media] if isinstance(media, str) else media
    if names is None:
        return None
    if not isinstance(names, list | tuple) or not names or not all(isinstance(each, str) for each in names):
        raise RewardError(f"Reward '{name}': its attribute `media` is {media!r}; give names of media, ('array',).")
    return tuple(names)
