"""Errors a user can cause: each carries one sentence saying what, where and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DDPOError(Exception):
    """Base of every error whose message is meant for the user; the command line exits with code 2."""


class ConfigError(DDPOError):
    """A configuration that cannot run: unknown key, wrong type, impossible combination."""


class ModelError(DDPOError):
    """A model that cannot be loaded or is of a kind that `ddpo` cannot train."""


class RewardError(DDPOError):
    """A reward that raised, or returned NaN, an infinity or the wrong number of scores."""


class PictureError(DDPOError):
    """A picture file that does not exist or cannot be read."""


class ServingError(DDPOError):
    """A reward server that cannot start."""


class PromptError(DDPOError):
    """A prompt source that does not exist or holds nothing usable."""


class ReplayError(DDPOError):
    """Replaying the stored steps does not give the log-probabilities of the rollout."""


class DivergenceError(DDPOError):
    """Samples, or an update, that are not finite; no weight was changed."""


class RunFolderError(DDPOError):
    """A run folder that would be overwritten, or lacks what is asked of it."""


class CheckpointError(DDPOError):
    """A checkpoint that cannot be written, is damaged, or does not belong to the run."""


class DeviceMemoryError(DDPOError):
    """A model of which not even one sample fits the memory; raised in the process that has too little."""


class ExperimentError(DDPOError):
    """An experiment that does not exist or is malformed, or whose runs failed."""


class DDPOWarning(UserWarning):
    """Something a user should know that does not end the run; the command line shows its one sentence."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the valid name closest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""


def connection_failed(error: BaseException | None) -> bool:
    """Return whether one of the errors behind `error` is a failed connection to the hub."""
    words = ("Connect", "LocalEntryNotFound", "Timeout", "Offline")
    while error is not None:
        if any(word in type(error).__name__ for word in words):
            return True
        error = error.__cause__ or error.__context__
    return False
