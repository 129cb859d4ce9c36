"""Training on CPU with one single-threaded process a core, all stepping on the same weights in shared memory."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp


def launch(worker: Callable[..., None], processes: int, *arguments: Any) -> None:
    """Run worker(rank, *arguments) in `processes` processes of one thread each.

    The processes do not wait for each other (Hogwild): on a machine that also does other work, processes in lock-step
    would lose twice what the other work takes.
    """
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    mp.spawn(_start, (worker, arguments), processes)


def _start(rank: int, worker: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    worker(rank, *arguments)


def save(state: object, path: Path) -> None:
    """Write whole or not at all: a killed run leaves the previous file."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)
