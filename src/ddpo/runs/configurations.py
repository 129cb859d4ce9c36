"""Configurations side by side: what differs between runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ddpo.runs.record import RunRecord

ABSENT = "\N{EN DASH}"
"""What stands for a setting that a run does not have."""
_OF_THE_PLACE = {"name", "output"}
"""Settings that say where a run goes and not what it does."""


@dataclass(frozen=True)
class Difference:
    """One setting in which runs differ."""

    key: str
    values: list[str]
    """One a run."""


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return settings by dotted path: `{"lora": {"rank": 4}}` gives `lora.rank: 4`."""
    flat: dict[str, str] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{path}.")
        else:
            flat[path] = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return flat


def differences(runs: Sequence[RunRecord]) -> list[Difference]:
    """Return the settings in which the runs' configurations differ."""
    flats = [flatten(run.config) for run in runs]
    keys = dict.fromkeys(key for flat in flats for key in flat if key not in _OF_THE_PLACE)
    rows = [Difference(key, [flat.get(key, ABSENT) for flat in flats]) for key in keys]
    return [row for row in rows if len(set(row.values)) > 1]
