"""What the package says goes through Python's `logging`, to the logger `ddpo`; a run shows it to the user."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class _Shown(logging.Handler):
    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__()
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        self._show(record.getMessage())


@contextmanager
def shown_by(show: Callable[[str], None]) -> Iterator[None]:
    """Hand every message of the package to `show` inside the context."""
    logger, handler = logging.getLogger("ddpo"), _Shown(show)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
