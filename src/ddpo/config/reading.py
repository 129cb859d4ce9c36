"""YAML from users, read without running anything, with one kind of error for all that can be wrong with it."""

from __future__ import annotations

from typing import Any

import yaml


def read_yaml(text: str) -> Any:
    """Return the plain values that `text` stands for: tags that would make objects are refused.

    Raises:
        ValueError: it is not YAML, names something that is no plain value, or is nested too deeply; one line.
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except Exception as error:  # PyYAML lets through what goes wrong in a date or a tagged number
        raise ValueError(f"a value in it is not what it looks like ({' '.join(str(error).split())})") from error
