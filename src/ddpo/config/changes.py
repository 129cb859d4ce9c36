"""What differs between the configuration a run began with and the one it is to go on with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ddpo.config.tree import TrainConfig
from ddpo.runs.configurations import flatten
from ddpo.runtime.errors import ConfigError

FREE = (
    *("name", "output", "iterations", "checkpoint_every", "keep_last", "keep_best", "tracker", "on_nonfinite"),
    *("callbacks", "stop_when"),
    *("device", "threads", "precision", "gradient_checkpointing", "compile"),
    *("evaluation", "scoring", "learning_rate", "optimizer", "max_gradient_norm"),
)
"""Settings, or sections of them, that a run may go on with changed: its weights, samples and statistics stay what they
are."""


@dataclass(frozen=True)
class Change:
    """A setting with two values."""

    key: str
    before: str
    now: str

    def __str__(self) -> str:
        return f"{self.key}: {self.before} -> {self.now}"

    @property
    def is_free(self) -> bool:
        """Whether the run means the same with the new value."""
        return any(self.key == free or self.key.startswith(f"{free}.") for free in FREE)


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """Return the settings that differ, by dotted path; where the run goes does not count.

    A setting that the package did not have before had what is now its default.
    """
    flat, flat_now = flatten(before), flatten(now)
    default = flatten(TrainConfig().model_dump(mode="json"))
    flats = {key: default[key] for key in flat_now if key in default} | flat, flat_now
    keys = [key for key in dict.fromkeys([*flat, *flat_now]) if key not in ("name", "output")]
    rows = [Change(key, *(values.get(key, "unset") for values in flats)) for key in keys]
    return [row for row in rows if row.before != row.now]


def check_changes(found: list[Change], *, allowed: bool) -> None:
    """Refuse what would make the run another one, unless it is `allowed`.

    Raises:
        ConfigError: such a change; all of them are listed.
    """
    refused = [str(change) for change in found if not change.is_free]
    if refused and not allowed:
        raise ConfigError(
            f"The run began with other settings ({'; '.join(refused)}): its state would not fit. Leave them as they "
            "were, start a new run, or give --allow-config-change."
        )
