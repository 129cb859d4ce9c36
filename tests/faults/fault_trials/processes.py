"""Work in a forked process, which may be killed: it begins with everything loaded, so that a case takes a second."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable


def forked(work: Callable[[], int | None], *, kill_after: float | None = None) -> int:
    """Run `work` in a forked process and return its exit code, or minus the signal that ended it.

    The process is killed after `kill_after` seconds if it still runs then.
    """
    pid = os.fork()
    if pid == 0:
        _run(work)
    timer = None if kill_after is None else threading.Timer(kill_after, os.kill, (pid, signal.SIGKILL))
    if timer is not None:
        timer.start()
    _, status = os.waitpid(pid, 0)
    if timer is not None:
        timer.cancel()
    return os.waitstatus_to_exitcode(status)


def _run(work: Callable[[], int | None]) -> None:
    """Leave the process with what `work` returns; nothing of the parent's runs behind it."""
    code = 99
    try:
        code = work() or 0
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(code)
