"""The loop that every stage trains with: on CPU processes or one GPU, stopped and resumed anywhere between the two.

The state of a stage is one file, `NAME.pt`: weights, their moving average, the optimizers, and `done`, the part of the
stage that is over. `Machine.minutes` is the time that the *whole* stage takes on this machine; so a stage that is one
third done on a CPU goes on with the other two thirds on a GPU. On a CPU they are minutes that a process had a core to
itself: on a busy machine a training takes longer by the clock and does not end sooner. SIGTERM (or Ctrl-C) ends a stage
with its state saved.
"""

import copy
import math
import os
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from muon import Muon
from torch import Tensor, nn

SAVE_SECONDS = 240
REPORT_SECONDS = 60
EMA_DECAY = 0.999
MUON_RATE = 0.02
ADAM_RATE = 2e-3
WARM_UP_STEPS = 300  # also after a start without the optimizer's state


@dataclass(frozen=True)
class Machine:
    """Where a stage runs and how long it may take there from its beginning to its end."""

    cache: Path
    device: torch.device
    processes: int
    minutes: float
    done: float | None = None  # go back to this part of the stage: to train longer

    def autocast(self) -> AbstractContextManager[Any]:
        """bf16 on a GPU and on CPUs that compute in it; elsewhere float32."""
        fast = self.device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
        return torch.autocast(self.device.type, torch.bfloat16, enabled=fast)

    def pick(self, cpu: int, cuda: int) -> int:
        """A batch size for this kind of device."""
        return cuda if self.device.type == "cuda" else cpu


Optimizers = tuple[torch.optim.Optimizer, ...]
# (model, machine, seed) -> a function that draws a batch and returns its loss and its number of pictures
MakeLoss = Callable[[nn.Module, Machine, int], Callable[[], tuple[Tensor, int]]]


@dataclass(frozen=True)
class Stage:
    """What to train: the name of its file, the loss, and the learning rate, relative to its peak, at each part done."""

    name: str
    make_loss: MakeLoss
    rate: Callable[[float], float]


def cosine(done: float) -> float:
    """From 1 down to 0."""
    return 0.5 * (1 + math.cos(math.pi * done))


def build_optimizers(model: nn.Module) -> Optimizers:
    """Muon for matrices and convolutions, AdamW for everything else."""
    parameters = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [p for name, p in parameters if p.dim() > 1 and "embedding" not in name]
    rest = [p for name, p in parameters if p.dim() == 1 or "embedding" in name]
    return Muon(matrices, weight_decay=0.01), torch.optim.AdamW(rest, betas=(0.9, 0.98), weight_decay=0.0, fused=True)


def fit(stage: Stage, model: nn.Module, machine: Machine) -> dict[str, Any]:
    """Train `model` from where `NAME.pt` is to its end and return the last state; leaves by SystemExit when stopped."""
    path = machine.cache / f"{stage.name}.pt"
    state: dict[str, Any] = {"done": 0.0, "pictures": 0, "steps": 0}
    if path.exists():
        state = torch.load(path, weights_only=True, map_location="cpu")
    state["done"] = state["done"] if machine.done is None else machine.done
    if state["done"] < 1:
        if "model" in state:
            model.load_state_dict(state["model"])
        model = model.to(machine.device, memory_format=torch.channels_last)
        stop = torch.zeros(1, dtype=torch.int64).share_memory_()
        if machine.device.type == "cuda" or machine.processes == 1:
            _work(0, stage, model, machine, state, stop)
        else:
            os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
            _on_signals(signal.SIG_IGN)  # the processes inherit it until they have started
            arguments = (stage, model.share_memory(), machine, state, stop)
            processes = mp.spawn(_work, arguments, machine.processes, join=False)
            _on_signals(lambda *_: stop.fill_(1))
            while not processes.join():
                pass
        _on_signals(signal.SIG_DFL)
        state = torch.load(path, weights_only=True, map_location="cpu")
        if state["done"] < 1:
            raise SystemExit(f"{stage.name} was stopped at {state['done']:.1%}; the same command goes on")
    return state


def _on_signals(handler: Any) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


def _work(rank: int, stage: Stage, model: nn.Module, machine: Machine, state: dict[str, Any], stop: Tensor) -> None:
    """One process's share. CPU processes step on the same weights in shared memory and do not wait for each other
    (Hogwild): on a machine that also does other work, processes in lock-step would lose twice what that work takes.
    Rank 0 also keeps the average, prints and saves.
    """
    if machine.device.type == "cpu":
        torch.set_num_threads(1)
    _on_signals(lambda *_: stop.fill_(1))
    torch.manual_seed(state["pictures"] + rank)
    average = copy.deepcopy(model).requires_grad_(False)
    average.load_state_dict(state.get("average", model.state_dict()))
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizers = build_optimizers(model)
    for optimizer, saved in zip(optimizers, state.get("optimizers", []), strict=False):
        optimizer.load_state_dict(saved)
    loss_of_batch = stage.make_loss(model, machine, state["pictures"] + 7919 * rank + int(time.time()))
    progress = _Progress(stage.name, state, machine)
    warm_from = 0 if "optimizers" in state else state["steps"]
    while progress.done < 1 and not stop[0]:
        warm = min(1.0, (progress.steps - warm_from + 1) / WARM_UP_STEPS)
        loss, pictures = loss_of_batch()
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer, rate in zip(optimizers, (MUON_RATE, ADAM_RATE), strict=True):
            optimizer.param_groups[0]["lr"] = rate * stage.rate(progress.done) * warm
            optimizer.step()
        progress.count(loss, pictures * (1 if machine.device.type == "cuda" else machine.processes))
        if rank == 0:
            update_average(average, model, progress.steps)
            progress.report_and_save(model, average, optimizers)
    if rank == 0:
        progress.save(model, average, optimizers)


class _Progress:
    """The clock, the counts and the file of a stage."""

    def __init__(self, name: str, state: dict[str, Any], machine: Machine) -> None:
        self.name, self.path, self.seconds = name, machine.cache / f"{name}.pt", machine.minutes * 60
        self.done, self.pictures, self.steps = state["done"], state["pictures"], state["steps"]
        self.spent = time.monotonic if machine.device.type == "cuda" else time.process_time
        self.start, self.done_at_start = self.spent(), self.done
        self.saved = self.reported = time.monotonic()
        self.losses: list[Tensor] = []

    def count(self, loss: Tensor, pictures: int) -> None:
        self.steps, self.pictures = self.steps + 1, self.pictures + pictures
        self.done = min(1.0, self.done_at_start + (self.spent() - self.start) / self.seconds)
        self.losses.append(loss.detach())

    def report_and_save(self, model: nn.Module, average: nn.Module, optimizers: Optimizers) -> None:
        now = time.monotonic()
        if now - self.reported > REPORT_SECONDS:
            mean, self.losses, self.reported = float(torch.stack(self.losses).mean()), [], now
            print(f"{self.name}: {self.done:.1%}, {self.pictures} pictures, loss {mean:.4f}", flush=True)
        if now - self.saved > SAVE_SECONDS:
            self.saved = now
            self.save(model, average, optimizers)

    def save(self, model: nn.Module, average: nn.Module, optimizers: Optimizers) -> None:
        state = {"model": model.state_dict(), "average": average.state_dict()}
        counts = {"done": self.done, "pictures": self.pictures, "steps": self.steps}
        save({**state, **counts, "optimizers": [optimizer.state_dict() for optimizer in optimizers]}, self.path)


def save(state: object, path: Path) -> None:
    """Write whole or not at all: a killed run leaves the previous file."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, steps: int) -> None:
    """Exponential moving average whose window grows up to 1 / (1 - EMA_DECAY) steps; buffers are copied."""
    decay = min(EMA_DECAY, (1 + steps) / (20 + steps))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
    for mine, theirs in zip(average.buffers(), model.buffers(), strict=True):
        mine.copy_(theirs)
