"""How a fault is refused: with an error of ddpo, in one clear sentence, from Python and from the command line."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from ddpo.cli import main
from ddpo.runtime.errors import DDPOError

LONGEST = 900
"""Characters in a sentence that can still be read."""
NOISE = ("Traceback", "pydantic", "Input should", "Value error", "validation error", "errors.pydantic.dev", "<class")
"""What comes out of libraries and not from somebody who wrote a sentence."""


def flaw_of(sentence: str) -> str | None:
    """Return what keeps a message from being one clear sentence; None if nothing does."""
    noise = next((word for word in NOISE if word in sentence), None)
    if noise is not None:
        return f"says {noise!r}: {sentence[:300]!r}"
    if len(sentence.strip().splitlines()) != 1:
        return f"is not one line: {sentence[:300]!r}"
    if len(sentence) > LONGEST:
        return f"has {len(sentence)} characters: {sentence[:300]!r}"
    return None if sentence.rstrip().endswith((".", "?", ")")) else f"does not end: {sentence[-100:]!r}"


def flaw_of_refusal(call: Callable[[], Any], *says: str, error: type[DDPOError] = DDPOError) -> str | None:
    """Return what is wrong with how `call` is refused; None if it raises `error` in one sentence with `says` in it."""
    try:
        result = call()
    except error as refusal:
        missing = [word for word in says if word not in str(refusal)]
        return f"does not say {missing}: {refusal}" if missing else flaw_of(str(refusal))
    except Exception as other:
        return f"raised {type(other).__name__}: {str(other)[:300]}"
    return f"was accepted: {str(result)[:100]!r}"


@dataclass(frozen=True)
class Ending:
    """How a program ended."""

    code: int
    stderr: str


def flaw_of_ending(ending: Ending, *says: str) -> str | None:
    """Return what is wrong with how a program refused: it must exit with 2 and say one sentence on stderr."""
    if ending.code != 2:
        return f"exit code {ending.code}: {ending.stderr[-300:]!r}"
    if not ending.stderr.startswith("Error: "):
        return f"says more than its error: {ending.stderr[:300]!r}"
    missing = [word for word in says if word not in ending.stderr]
    return f"does not say {missing}: {ending.stderr}" if missing else flaw_of(ending.stderr)


class Reached(BaseException):
    """Something ran that had to be prevented; no `except Exception` catches it."""


def run_here(arguments: Sequence[str], folder: Path) -> Ending:
    """Run `ddpo` with `arguments` in this process, in a working folder; raises Reached as it comes."""
    stderr = io.StringIO()
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stderr(stderr),
        contextlib.redirect_stdout(io.StringIO()),
        mock.patch.dict(os.environ),
        mock.patch.object(sys, "argv", ["ddpo", *arguments]),
        mock.patch.object(sys, "path", list(sys.path)),
    ):
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except Exception:  # as Python ends
            code = 1
            stderr.write(traceback.format_exc())
    return Ending(code, stderr.getvalue())


def run_apart(arguments: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> Ending:
    """Run `ddpo` with `arguments` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "ddpo", *arguments],
        cwd=folder,
        env=os.environ | dict(environment or {}),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    return Ending(done.returncode, done.stderr)


@contextlib.contextmanager
def no_model_may_load() -> Iterator[None]:
    """Raise Reached where a model would be loaded: a run would begin."""
    from ddpo.policies.stable_diffusion import StableDiffusionPolicy

    def reached(*_: Any, **__: Any) -> None:
        raise Reached("a model was loaded")

    with mock.patch.object(StableDiffusionPolicy, "from_source", reached):
        yield
