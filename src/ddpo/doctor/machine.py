"""Processors, memory and disk against what a run needs of them."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from pathlib import Path

from ddpo.algorithms import WeightedRegression
from ddpo.config import TrainConfig
from ddpo.doctor.checks import Outcome, failed, ok, skipped, warning
from ddpo.doctor.plan import Outlook
from ddpo.report.wording import number
from ddpo.runs.folder import RUNS, RunFolder

HEADROOM = 0.8
"""Share of the free memory that the estimate may take: an operation's working memory, the libraries and fragmentation
come on top of it (docs/planning.md)."""
_REPORT_BYTES = 16_000_000
"""The report page: its pictures take 12 MB at most (docs/report.md), base64 makes 16 of them."""
_COPIES_OF_PICTURES = 2
"""The fixed samples are written with captions and bare."""
_CGROUP = Path("/sys/fs/cgroup")


def look_at_processors(config: TrainConfig) -> Outcome:
    """Compare threads with cores, and the precision with what the device computes fast; `config` is resolved."""
    import torch

    cores, threads = usable_cores(), config.threads or 1
    cpu = f"{cores} CPU core{'s'[: cores != 1]}, {threads} thread{'s'[: threads != 1]}"
    if threads > cores:
        return warning(f"{cpu}: more threads than cores slow each other down.", f"Set threads={cores}.")
    if config.device != "cuda":
        return _without_cuda(config, cpu)
    index = torch.cuda.current_device()
    major, minor = torch.cuda.get_device_capability(index)
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    gpu = (
        f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(index)}, capability {major}.{minor}, "
        f"bf16 {'yes' if bf16 else 'no'}; {cpu}"
    )
    if config.precision == "bf16" and not bf16:
        return warning(f"{gpu}: bf16 is only emulated here.", "Set precision=fp16 or fp32.")
    return ok(f"{gpu}; precision {config.precision}")


def _without_cuda(config: TrainConfig, cpu: str) -> Outcome:
    import torch

    words = {"mps": "Apple GPU (mps)", "cpu": "no GPU in use"}
    seen = f"{cpu}, {words.get(str(config.device), config.device)}; precision {config.precision}"
    if config.device == "cpu" and not torch.cuda.is_available() and shutil.which("nvidia-smi"):
        built = torch.version.cuda
        why = "this torch is built without CUDA" if built is None else f"torch (CUDA {built}) cannot use it"
        return warning(f"{seen}. There is an NVIDIA driver, but {why}.", "Install the torch that fits the driver.")
    fast = config.precision == "fp32" or (
        config.precision == "bf16" and torch.cpu.get_capabilities().get("amx_bf16", False)
    )
    if config.device == "cpu" and not fast:
        return warning(f"{seen}: without matrix units for it {config.precision} is slow.", "Set precision=auto.")
    return ok(seen)


def usable_cores() -> int:
    """Return the cores this process may use: its affinity, and what a container grants (cgroup v2), rounded up."""
    known = getattr(os, "sched_getaffinity", None)
    cores = len(known(0)) if known is not None else os.cpu_count() or 1
    quota, _, period = _read(_CGROUP / "cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit():
        cores = min(cores, -(-int(quota) // int(period)))
    return max(1, cores)


def free_main_memory() -> int | None:
    """Return the bytes of main memory that a program could still get, within its container's limit; None: not known."""
    lines = [line.split() for line in _read(Path("/proc/meminfo")).splitlines()]
    free = next((1024 * int(words[1]) for words in lines if words[0] == "MemAvailable:"), None)
    limit, used = _read(_CGROUP / "memory.max"), _read(_CGROUP / "memory.current")
    if limit.isdigit() and used.isdigit():
        left = max(0, int(limit) - int(used))
        free = left if free is None else min(free, left)
    return free


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def look_at_memory(config: TrainConfig, outlook: Outlook) -> Outcome:
    """Compare the estimate of the memory of an update with what is free, on the device and in main memory."""
    memory = outlook.plan.memory
    if memory is None:
        return skipped("The model's architecture is not known, so nothing says how much memory it needs.")
    if config.device != "cuda":
        if config.device != "cpu":
            return skipped(f"How much memory {config.device} has left is not known; needed are {_bytes(memory.total)}.")
        return compare_memory(memory.total, free_main_memory(), "main memory")
    import torch

    on_device = compare_memory(memory.total - memory.main, torch.cuda.mem_get_info()[0], "GPU memory")
    in_main = compare_memory(memory.main, free_main_memory(), "main memory")
    return on_device if on_device.status != "ok" or in_main.status == "ok" else in_main


def compare_memory(needed: int, free: int | None, what: str) -> Outcome:
    """Return whether `needed` bytes fit into `free` ones, with room for what the estimate leaves out."""
    if free is None:
        return skipped(f"How much {what} is free is not known here ({platform.system()}); needed are {_bytes(needed)}.")
    numbers = f"an update needs about {_bytes(needed)} of the {_bytes(free)} of {what} that are free"
    advice = "Lower batch_size, set gradient_checkpointing=true or lora.rank=4, or stop what else uses the memory."
    if needed > free:
        return failed(f"{_sentence(numbers)}.", advice)
    if needed > HEADROOM * free:
        return warning(f"{_sentence(numbers)}; working memory comes on top.", advice)
    return ok(numbers)


def look_at_disk(config: TrainConfig, outlook: Outlook) -> Outcome:
    """See that the run folder could be written, and that it would fit."""
    RunFolder.check(config.output)
    target = config.output if config.output is not None else RUNS / (config.name or "run")
    above = _existing(target.expanduser().absolute())
    try:
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        return failed(
            f"{above} cannot be written into: {error.strerror}.", "Run in another folder, or give output=FOLDER."
        )
    return compare_disk(bytes_written(config, outlook), shutil.disk_usage(above).free, above)


def compare_disk(needed: int | None, free: int, folder: Path) -> Outcome:
    """Return whether a run of `needed` bytes fits on the disk of `folder`."""
    if needed is None:
        return ok(f"{folder} can be written into, {_bytes(free)} are free; how much the run writes is not known")
    numbers = f"the run writes about {_bytes(needed)} below {folder}, where {_bytes(free)} are free"
    return ok(numbers) if needed <= free else failed(f"{_sentence(numbers)}.", "Make room, or give output=FOLDER.")


def bytes_written(config: TrainConfig, outlook: Outlook) -> int | None:
    """Return the bytes that a run folder takes at most, its pictures uncompressed; None: the model is not known.

    The trained weights are there twice while they are saved again, as are the first and last fixed samples. A
    checkpoint holds them with AdamW's two moments, one that is made when the run is stopped also the iteration's
    samples, and one is written before the oldest is removed. A regression keeps in a file what its memory does not.
    """
    plan, architecture = outlook.plan, outlook.architecture
    if plan.result_bytes is None or architecture is None:
        return None
    _, height, width = architecture.picture_shape
    sheets = (plan.evaluations + 2) * _COPIES_OF_PICTURES
    scratch = 0
    if isinstance(config.algorithm, WeightedRegression):
        channels, rows, columns = architecture.latent_shape
        clean = 4 * config.samples_per_iteration * channels * rows * columns
        scratch = max(0, clean - int(config.algorithm.memory_gb * 1e9))
    checkpoints = (config.keep_last + config.keep_best + 1) * 3 * plan.result_bytes
    if plan.memory is not None:
        checkpoints += plan.memory.samples
    pictures = sheets * config.evaluation.number * 3 * height * width + _REPORT_BYTES
    return 2 * plan.result_bytes + checkpoints + pictures + scratch


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _bytes(amount: int) -> str:
    """Return `3.4 GB`, `120 MB`."""
    return f"{number(amount / 1e9, 3)} GB" if amount >= 1e9 else f"{number(max(1, round(amount / 1e6)), 3)} MB"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"
