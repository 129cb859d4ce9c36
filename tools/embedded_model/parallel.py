"""Data-parallel training on CPU: one process a core, gradients averaged by gloo after every backward pass."""

import os
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def launch(worker: Callable[..., None], processes: int, *arguments: Any) -> None:
    """Run worker(rank, *arguments) in `processes` processes of one thread each."""
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_start, (processes, Path(folder) / "rendezvous", worker, arguments), processes)


def _start(rank: int, world: int, meeting: Path, worker: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    worker(rank, *arguments)
    dist.destroy_process_group()


def broadcast_parameters(parameters: Iterable[torch.nn.Parameter]) -> None:
    for parameter in parameters:
        dist.broadcast(parameter.data, 0)


def average_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """One all-reduce of all gradients, flattened."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.view(-1) for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def agreed_time(start: float) -> float:
    """Seconds since start, the same on every rank, so that all leave a loop at the same step."""
    elapsed = torch.tensor(time.monotonic() - start)
    dist.broadcast(elapsed, 0)
    return float(elapsed)


def save(state: object, path: Path) -> None:
    """Write whole or not at all: a killed run leaves the previous file."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)
