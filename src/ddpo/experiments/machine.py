"""What runs here and at one time: devices, processor, versions. Never imports torch, which is asked in a subprocess."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from ddpo.experiments.definition import Scale
from ddpo.experiments.runner import Environment

_ASK_TORCH = (
    "import torch; print(torch.__version__); "
    "[print(torch.cuda.get_device_name(i)) for i in range(torch.cuda.device_count())]"
)


def slots(jobs: int | None, devices: list[str], scale: Scale = "embedded") -> list[Environment]:
    """Return the environment variables of what runs at one time.

    By default one run a device; where there is none one a core, but a single one of the paper's model, which fills the
    memory and takes every core. With more jobs than devices these are shared.
    """
    if not devices:
        return [{} for _ in range(jobs or (cores() if scale == "embedded" else 1))]
    visible = [entry for entry in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if entry]
    names = visible if len(visible) == len(devices) else [str(index) for index in range(len(devices))]
    return [{"CUDA_VISIBLE_DEVICES": names[job % len(names)]} for job in range(jobs or len(names))]


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """Return the name of each CUDA device that torch can use."""
    answer = subprocess.run([sys.executable, "-c", _ASK_TORCH], capture_output=True, text=True, check=False)
    return answer.stdout.splitlines()[1:]


def describe(devices: list[str]) -> dict[str, str]:
    """Return processor, cores, devices and versions: what a result may depend on, without names or paths."""
    described = {"processor": _processor(), "cores": str(cores())}
    if devices:
        described["devices"] = ", ".join(devices)
    return described | {"python": platform.python_version(), "torch": version("torch")}


def commit() -> str | None:
    """Return the commit of the source checkout, `+changes` if it is changed; None when there is no checkout."""
    source = Path(__file__).resolve().parents[3]
    if not (source / ".git").exists():
        return None
    revision, changes = (_git(source, *words) for words in (("rev-parse", "HEAD"), ("status", "--porcelain")))
    if revision is None:
        return None
    return revision[:12] + ("+changes" if changes else "")


def _git(folder: Path, *words: str) -> str | None:
    """Return what a git command that changes nothing prints; None when it fails or there is no git."""
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *words], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    """Return the model of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())
