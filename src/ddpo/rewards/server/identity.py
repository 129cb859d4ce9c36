"""What tells two rewards apart that have the same name."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from importlib.metadata import version
from pathlib import Path

from ddpo.rewards import NamedReward, available_rewards

PACKAGE_VERSION = version("ddpo")


def version_of(reward: NamedReward) -> str:
    """Return the version of a reward: that of the package, with a hash of its options and, for a user's, its file."""
    function: object = reward.function
    options: dict[str, object] = {}
    if isinstance(function, functools.partial):
        options = function.keywords
        function = function.func
    own = reward.name not in dict(available_rewards())
    source = _source(function) if own else b""
    if not options and not source:
        return PACKAGE_VERSION
    described = json.dumps(options, sort_keys=True, default=repr).encode() + source
    return f"{PACKAGE_VERSION}+{hashlib.sha256(described).hexdigest()[:8]}"


def _source(function: object) -> bytes:
    """Return the file that a function stands in, empty when there is none."""
    try:
        file = inspect.getsourcefile(inspect.unwrap(function))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return b""
    return Path(file).read_bytes() if file and Path(file).is_file() else b""
