"""The processes of a run and what they share. The only importer of accelerate.

Every process draws its own contiguous part of the samples. Rewards are gathered once, before the baseline;
gradients are averaged once per update, explicitly, over the parameters the optimizer holds: there is no wrapped
module whose forward could be bypassed, and nothing is silently left unsynchronised.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ddpo.runtime.errors import ConfigError, DivergenceError

T = TypeVar("T")
BUCKET = 25_000_000
"""Numbers of a gradient that processes average at a time: 100 MB."""
AVAILABLE_THREADS = torch.get_num_threads()
"""CPU threads that torch takes of itself: the cores that this process may use, or OMP_NUM_THREADS."""


class Runtime:
    """Device, processes, loss scaling and trackers of a run."""

    def __init__(
        self,
        *,
        device: str | None = None,
        threads: int | None = None,
        precision: str = "fp32",
        tracker: str | None = None,
    ) -> None:
        """Join the processes of the run; alone when not started by `accelerate launch` or torchrun.

        Raises:
            ConfigError: there is no such device, or the tracker's package is missing.
        """
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState

        if tracker is not None and find_spec(tracker) is None:
            raise ConfigError(f"tracker: the package {tracker} is not installed; `pip install {tracker}`.")
        if device is not None and not _exists(device):
            raise ConfigError(f"device: there is no '{device}' here; leave it out to take what there is.")
        if not torch.distributed.is_initialized():
            AcceleratorState._reset_state(reset_partial_state=True)  # an earlier run may have had another device
        self._accelerator = Accelerator(log_with=tracker, cpu=device == "cpu", project_dir=".")
        self.device = torch.device(device) if device not in (None, "cuda") else self._accelerator.device
        if self.device.type == "cpu":
            torch.set_num_threads(threads or min(2, AVAILABLE_THREADS))
        elif threads is not None:
            torch.set_num_threads(threads)
        if precision == "tf32" and self.device.type != "cuda":
            raise ConfigError(f"precision: tf32 is arithmetic of CUDA, not of '{self.device.type}'; use fp32 or auto.")
        self.precision = precision if precision != "auto" else _suitable_precision(self.device)
        _allow_tf32(self.precision == "tf32")
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    @property
    def threads(self) -> int:
        """CPU threads of torch in this process."""
        return torch.get_num_threads()

    @threads.setter
    def threads(self, number: int) -> None:
        torch.set_num_threads(number)

    @property
    def processes(self) -> int:
        """Number of processes."""
        return int(self._accelerator.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run folder."""
        return bool(self._accelerator.is_main_process)

    def shard(self, number: int, what: str = "samples_per_iteration") -> range:
        """Return the indices of this process's part of `number` samples; the parts are equal. Errors begin with `what`.

        Raises:
            ConfigError: the number does not divide by the number of processes.
        """
        if number % self.processes:
            raise ConfigError(f"{what}: {number} samples do not divide by the {self.processes} processes of this run.")
        own = self.part(number)
        return range(own[0], own[0] + len(own))

    def part(self, number: int) -> list[int]:
        """Return the indices of this process's part of `number` items.

        The parts are equal, and follow each other: where the number does not divide, the last index is repeated.
        """
        size = -(-number // self.processes)
        first = int(self._accelerator.process_index) * size
        return [min(index, number - 1) for index in range(first, first + size)]

    def gather(self, items: Sequence[T]) -> list[T]:
        """Return the items of all processes in order of process."""
        from accelerate.utils import gather_object

        return list(items) if self.processes == 1 else list(gather_object(list(items)))

    def wait(self) -> None:
        """Return once every process has come here."""
        self._accelerator.wait_for_everyone()

    def free_memory(self) -> None:
        """Give back what the allocator keeps of a GPU's memory."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of `loss`."""
        self._scaler.scale(loss).backward()

    def optimizer_step(
        self, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], max_norm: float | None
    ) -> float | None:
        """Average gradients over processes, clip them to `max_norm`, update, and return their norm before clipping.

        In fp16 an update whose scaled gradient overflows is skipped, the scale is lowered, and None is returned.

        Raises:
            DivergenceError: the gradient is not finite (in fp16: not at a loss scale of 1 either); nothing is updated.
        """
        self._average_gradients(parameters)
        self._scaler.unscale_(optimizer)
        norm = float(nn.utils.clip_grad_norm_(parameters, float("inf") if max_norm is None else max_norm))
        searching = self._scaler.is_enabled() and self._scaler.get_scale() >= 1
        if not math.isfinite(norm) and not searching:
            optimizer.zero_grad(set_to_none=True)
            if self._scaler.is_enabled():
                self._scaler.update(self._scaler.get_scale())  # it is done with this update, at the same scale
            raise DivergenceError(
                f"the gradient is not finite (norm {norm}); no weight was changed. "
                "Lower learning_rate or use precision=fp32."
            )
        self._scaler.step(optimizer)
        self._scaler.update()
        optimizer.zero_grad(set_to_none=True)
        return norm if math.isfinite(norm) else None

    def _average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        if self.processes == 1:
            return
        for bucket in _buckets(parameters):
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
            flat = self._accelerator.reduce(torch.cat([each.flatten() for each in gradients]), reduction="mean")
            for parameter, gradient, part in zip(
                bucket, gradients, flat.split([p.numel() for p in bucket]), strict=True
            ):
                parameter.grad = gradient.copy_(part.view(gradient.shape))

    @property
    def loss_scale(self) -> dict[str, Any]:
        """State of the loss scaler as plain values; empty where there is none."""
        return dict(self._scaler.state_dict())

    @loss_scale.setter
    def loss_scale(self, state: Mapping[str, Any]) -> None:
        if state and self._scaler.is_enabled():
            self._scaler.load_state_dict(dict(state))

    def start_tracking(self, name: str, config: Mapping[str, Any], folder: Path, *, run_id: str | None = None) -> None:
        """Open the tracker, if one is configured; what it writes locally goes into the run folder.

        `run_id` is the `tracker_run` of a run that goes on.
        """
        if self._accelerator.log_with:
            project = self._accelerator.project_configuration
            project.project_dir = project.logging_dir = str(folder)
            flat = {key: str(value) for key, value in config.items()}
            options = {} if run_id is None else {"wandb": {"id": run_id, "resume": "allow"}}
            self._accelerator.init_trackers(name, config=flat, init_kwargs=options)

    @property
    def tracker_run(self) -> str | None:
        """What the tracker calls this run, where it can go on with a run (wandb)."""
        for tracker in getattr(self._accelerator, "trackers", ()):
            if tracker.name == "wandb" and tracker.tracker is not None:
                return str(tracker.tracker.id)
        return None

    def track(self, metrics: Mapping[str, float]) -> None:
        """Send an iteration's metrics to the tracker, if one is configured."""
        self._accelerator.log(dict(metrics), step=int(metrics["iteration"]))

    def stop_tracking(self) -> None:
        """Close the tracker."""
        if self._accelerator.log_with:
            self._accelerator.end_training()


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Yield the parameters in groups of about `BUCKET` numbers, so that their gradients are copied a part at a time."""
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        bucket.append(parameter)
        size += parameter.numel()
        if size >= BUCKET:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket


def out_of_memory(error: BaseException) -> bool:
    """Return whether memory did not suffice, on a GPU or for PyTorch on the CPU."""
    on_cpu = isinstance(error, RuntimeError) and "DefaultCPUAllocator: " in str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or on_cpu


def _suitable_precision(device: torch.device) -> str:
    """Return the fast arithmetic that log-probabilities bear: `fp16` on CUDA, `bf16` on a CPU with units for it.

    bfloat16 has eight times the rounding error of float16: by reckoning, more than the paper's clip range with the
    latents of Stable Diffusion (docs/performance.md).
    """
    if device.type == "cuda":
        return "fp16"
    present = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return "bf16" if present.get("amx_bf16") or present.get("avx512_bf16") else "fp32"


def _allow_tf32(allowed: bool) -> None:
    """Let CUDA round the inputs of float32 products to 10 bits of mantissa, or not; PyTorch does so in convolutions."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def _exists(device: str) -> bool:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        return False
    return True
