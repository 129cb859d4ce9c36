"""Runs of pytest on copies of the package, in processes that have torch and diffusers loaded already: seconds each."""

from __future__ import annotations

import multiprocessing
import os
import shlex
import shutil
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
OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "-p", "no:unraisableexception")


def copied(source: Path, target: Path) -> Path:
    """Copy what the tests of a repository need and return where to."""
    for name in ("src", "tests"):
        shutil.copytree(source / name, target / name)
    shutil.copy2(source / "pyproject.toml", target)
    return target


class FirstFailure:
    """Remembers which test failed first, as a plugin of pytest."""

    name: str | None = None

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.name = self.name or (report.nodeid if report.failed else None)


def run_pytest(root: Path, tests: str, keep_compiled: bool, answer: Connection) -> None:
    """Run in a process of its own: send pytest's exit status and the first test that failed."""
    os.chdir(root)
    sys.path.insert(0, str(root / "src"))
    sys.dont_write_bytecode = not keep_compiled
    os.environ |= {"PYTHONPATH": str(root / "src"), "PYTHONDONTWRITEBYTECODE": "" if keep_compiled else "1"}
    import pytest

    seen = FirstFailure()
    with Path(os.devnull).open("w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
        status = int(pytest.main([*OPTIONS, f"--basetemp={root / 'tmp'}", *shlex.split(tests)], plugins=[seen]))
    answer.send((status, seen.name))


def first_failure(root: Path, tests: str, limit: float, *, keep_compiled: bool = True) -> str | None:
    """Return the first of these tests that fails on the package in `root`; raises RuntimeError if that is not known."""
    receiver, sender = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=run_pytest, args=(root, tests, keep_compiled, sender))
    process.start()
    sender.close()
    try:
        status, failed = receiver.recv() if receiver.poll(limit) else (f"nothing within {limit:g} s", None)
    except EOFError:
        status, failed = "nothing", None
    process.kill()
    process.join()
    if status != 0 and failed is None:
        raise RuntimeError(f"no test of '{tests}' failed, but pytest ended with {status}")
    return failed
