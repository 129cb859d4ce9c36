"""Values that a user types as the command line's text."""

from __future__ import annotations

from typing import Any

from ddpo.runtime.errors import ConfigError


def parsed(text: str) -> Any:
    """Return the list or mapping written in `text`, or `text` itself: a name or a file.

    Raises ConfigError when it begins like a list or mapping and is none.
    """
    from ddpo.config.reading import read_yaml

    if not text.startswith(("{", "[")):
        return text
    try:
        return read_yaml(text)
    except ValueError:
        raise ConfigError(f"'{text}' is not of the form {{name: ..., option: ...}}.") from None
