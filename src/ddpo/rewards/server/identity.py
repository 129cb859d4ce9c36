"""What tells two rewards apart that have the same name."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ddpo.rewards import NamedReward, reward_entries

PACKAGE_VERSION = version("ddpo")


def version_of(reward: NamedReward) -> str:
    """Return the version of a reward: that of the package, with a hash of its options and, for a user's, its file."""
    function, options = reward.function, dict[str, object]()
    if isinstance(function, functools.partial):
        function, options = function.func, function.keywords
    source = b"" if reward.name in reward_entries() else _source(function)
    if not options and not source:
        return PACKAGE_VERSION
    described = json.dumps(options, sort_keys=True, default=repr).encode() + source
    return f"{PACKAGE_VERSION}+{hashlib.sha256(described).hexdigest()[:8]}"


def _source(function: Any) -> bytes:
    """Return the file that a function stands in, empty when there is none."""
    try:
        file = inspect.getsourcefile(inspect.unwrap(function))
    except (TypeError, ValueError):
        return b""
    return Path(file).read_bytes() if file and Path(file).is_file() else b""
