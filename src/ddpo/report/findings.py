"""What a look at a run found, and the comparisons that looks share: of late, first and last third, up or down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from ddpo.report.curve import NORMAL_95
from ddpo.report.intervals import Mean
from ddpo.runs.record import RunRecord, finite

ENOUGH_ITERATIONS = 6
"""Iterations from which a trend is spoken of: the thirds that are compared then hold two values each, so that no
single iteration decides."""
_RECENT = 0.1
"""Share of the iterations, the last ones, that "of late" means; one at least."""


@dataclass(frozen=True)
class Finding:
    """The outcome of one look."""

    level: Literal["sign", "clear", "unknown"]
    subject: str
    """What was looked at."""
    text: str
    """One or two sentences with numbers; why it could not be looked at where that is unknown."""
    keys: tuple[str, ...] = ()
    """Metrics and settings it was seen in."""
    advice: str = ""
    """A sentence on what to change, where there is something."""
    grave: bool = False
    """Of a sign: nothing can be learned like this, or what was learned is being lost."""

    @property
    def severity(self) -> Literal["problem", "warning", "clear", "unknown"]:
        """The level in words for whoever is to act on it: a sign is a warning, a grave one a problem."""
        if self.level != "sign":
            return self.level
        return "problem" if self.grave else "warning"


def sign(subject: str, text: str, *keys: str, advice: str = "", grave: bool = False) -> Finding:
    """Return a reason to look, seen in the metrics `keys`."""
    return Finding("sign", subject, text, keys, advice, grave)


def clear(subject: str, text: str, *keys: str) -> Finding:
    """Return that a look found nothing."""
    return Finding("clear", subject, text, keys)


def unknown(subject: str, reason: str) -> Finding:
    """Return that something could not be looked at."""
    return Finding("unknown", subject, reason)


def reward_trend(run: RunRecord) -> Mean | None:
    """Return the mean reward of the last third of the iterations minus that of the first, with its 95 % interval.

    None with too few iterations, or without standard errors.
    """
    means, errors = reward_with_errors(run)
    if len(means) < ENOUGH_ITERATIONS:
        return None
    first, last = slice(len(means) // 3), slice(-(len(means) // 3), None)
    change, error = (
        fmean(means[last]) - fmean(means[first]),
        math.hypot(mean_error(errors[first]), mean_error(errors[last])),
    )
    return Mean(change, error, change - NORMAL_95 * error, change + NORMAL_95 * error, len(means))


def reward_with_errors(run: RunRecord) -> tuple[list[float], list[float]]:
    """Return mean reward and its standard error of every iteration that has both."""
    pairs = [(finite(row.get("reward/mean")), finite(row.get("reward/standard_error"))) for row in run.metrics]
    known = [(mean, error) for mean, error in pairs if mean is not None and error is not None]
    return [mean for mean, _ in known], [error for _, error in known]


def mean_error(errors: Sequence[float]) -> float:
    """Return the standard error of the mean of independent values with these standard errors."""
    return math.hypot(*errors) / len(errors)


def late(values: Sequence[float]) -> float:
    """Return the mean of the last values."""
    return fmean(values[-max(1, round(_RECENT * len(values))) :])


def section(run: RunRecord, name: str) -> dict[str, object]:
    """Return a section of the configuration; its bare name, or nothing, as an empty or one-line mapping."""
    value = run.config.get(name)
    if isinstance(value, dict):
        return value
    return {"name": value} if isinstance(value, str) else {}
