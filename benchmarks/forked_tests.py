"""Runs of pytest in processes of their own, with torch and diffusers loaded already: they take seconds each."""

from __future__ import annotations

import multiprocessing
import os
import shlex
import sys
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "pytest",
        "peft",
        "accelerate",
        "matplotlib.pyplot",
        "transformers.models.clip.modeling_clip",
        "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    ]
)


class FirstFailure:
    """Remembers which test failed first, as a plugin of pytest."""

    name: str | None = None

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.name = self.name or (report.nodeid if report.failed else None)


def run_pytest(root: Path, tests: str, answer: Connection) -> None:
    """Run in a process of its own: send pytest's exit status and the first test that failed."""
    os.chdir(root)
    sys.path.insert(0, str(root / "src"))
    sys.dont_write_bytecode, os.environ["PYTHONPATH"] = False, str(root / "src")
    import pytest

    seen = FirstFailure()
    with Path(os.devnull).open("w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
        status = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *shlex.split(tests)], plugins=[seen]))
    answer.send((status, seen.name))


def first_failure(root: Path, tests: str, limit: float) -> str | None:
    """Return the first of these tests that fails on the package in `root`; raises RuntimeError if that is not known."""
    receiver, sender = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=run_pytest, args=(root, tests, sender))
    process.start()
    sender.close()
    try:
        status, failed = receiver.recv() if receiver.poll(limit) else (f"nothing within {limit:g} s", None)
    except EOFError:
        status, failed = "nothing", None
    process.kill()
    process.join()
    if status != 0 and failed is None:
        raise RuntimeError(f"no test failed, but pytest ended with {status}")
    return failed
