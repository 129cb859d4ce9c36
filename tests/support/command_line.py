"""The command line as a user types it, in forks of a process that has torch and diffusers loaded already."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAM = Path(sys.executable).with_name("ddpo")
"""The installed program: for what depends on variables that libraries read as they are imported."""
LIMIT = 300.0
"""Seconds after which a command hangs."""
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        "peft",
        "accelerate",
        "matplotlib.pyplot",
        "transformers.models.clip.modeling_clip",
        "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    ]
)


def ddpo(*arguments: object, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `ddpo` with these arguments in `folder`, or else here, and return what it printed and its exit code."""
    words = [str(argument) for argument in arguments]
    with tempfile.TemporaryDirectory() as kept:
        printed = [Path(kept, name) for name in ("stdout", "stderr")]
        process = _FORKS.Process(target=_run, args=(words, folder or Path.cwd(), dict(os.environ), printed))
        process.start()
        process.join(LIMIT)
        if process.is_alive():
            process.kill()
            raise subprocess.TimeoutExpired(words, LIMIT)
        stdout, stderr = (file.read_text() for file in printed)
    assert process.exitcode is not None
    return subprocess.CompletedProcess(words, process.exitcode, stdout, stderr)


def _run(words: list[str], folder: Path, environment: dict[str, str], printed: list[Path]) -> None:
    """Be the program: one thread, its own folder and environment, and files for what it prints."""
    for number, file in enumerate(printed, 1):
        descriptor = os.open(file, os.O_CREAT | os.O_WRONLY)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[0], sys.argv = "", ["ddpo", *words]

    import diffusers
    import torch

    from ddpo.cli import main

    diffusers.utils.logging.set_verbosity_error()  # `main` asks for it by a variable, before the import
    torch.set_num_threads(1)
    main()
