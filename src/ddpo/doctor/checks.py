"""One look at one thing: what came of it, and a guard under which nothing that goes wrong stops the next one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ddpo.runtime.errors import DDPOError

Status = Literal["ok", "warning", "failed", "note", "skipped"]
"""`note`: information that is neither good nor bad; `skipped`: could not be looked at."""


@dataclass(frozen=True)
class Outcome:
    """What came of a check."""

    status: Status
    text: str
    """What was seen, as a sentence."""
    advice: str = ""
    """What to do, as a sentence, where there is something."""


@dataclass(frozen=True)
class Check:
    """An outcome with its name."""

    name: str
    outcome: Outcome
    seconds: float
    """How long it took."""


def ok(text: str) -> Outcome:
    """Return that all is well."""
    return Outcome("ok", text)


def warning(text: str, advice: str) -> Outcome:
    """Return that a run would start and that something is worth changing."""
    return Outcome("warning", text, advice)


def failed(text: str, advice: str = "") -> Outcome:
    """Return that a run would not work; an error's own sentence says what to do."""
    return Outcome("failed", text, advice)


def skipped(text: str) -> Outcome:
    """Return that something could not be looked at."""
    return Outcome("skipped", text)


def perform(name: str, action: Callable[[], Outcome], *, limit: float) -> Check:
    """Return what came of `action`, whatever it raises; after `limit` seconds it has failed and is left alone.

    It runs in a thread of its own, because code that waits for a network or a user's reward cannot be told to stop.
    """
    results: list[Outcome] = []
    start = time.perf_counter()
    thread = threading.Thread(target=lambda: results.append(_guarded(action)), name=f"check {name}", daemon=True)
    thread.start()
    thread.join(limit)
    late = failed(f"It did not end within {limit:.0f} s.", "Try this part alone; the checks below went on without it.")
    return Check(name, results[0] if results else late, time.perf_counter() - start)


def _guarded(action: Callable[[], Outcome]) -> Outcome:
    try:
        return action()
    except DDPOError as error:
        return failed(str(error))
    except (Exception, SystemExit) as error:  # a user's reward may do anything
        reason = " ".join(str(error).split())[:300]
        return failed(f"{type(error).__name__}: {reason}" if reason else type(error).__name__)
