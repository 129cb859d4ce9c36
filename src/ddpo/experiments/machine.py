"""What runs here and at one time: devices, processor, versions. Never imports torch, which is asked in a subprocess."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ddpo.experiments.definition import Scale
from ddpo.runtime.version import __version__

_ASK_TORCH = "import torch; [print(torch.cuda.get_device_name(i)) for i in range(torch.cuda.device_count())]"


def slots(jobs: int | None, devices: list[str], scale: Scale = "embedded") -> list[dict[str, str]]:
    """Return the environment variables of what runs at one time; a run of the embedded model takes one thread.

    By default one run a device; where there is none one a core, but a single one of the paper's model, which fills the
    memory and takes every core. With more jobs than devices these are shared.
    """
    threads = {"OMP_NUM_THREADS": "1"} if scale == "embedded" else {}
    if not devices:
        return [threads] * (jobs or (cores() if scale == "embedded" else 1))
    visible = [entry for entry in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if entry]
    names = visible if len(visible) == len(devices) else [str(index) for index in range(len(devices))]
    return [{**threads, "CUDA_VISIBLE_DEVICES": names[job % len(names)]} for job in range(jobs or len(names))]


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """Return the name of each CUDA device that torch can use."""
    answer = subprocess.run([sys.executable, "-c", _ASK_TORCH], capture_output=True, text=True, check=False)
    return answer.stdout.splitlines()


def origin(devices: list[str]) -> dict[str, Any]:
    """Return what a result may depend on, without names or paths: versions, commit, processor, cores and devices."""
    machine = {"processor": _processor(), "cores": str(cores())}
    if devices:
        machine["devices"] = ", ".join(devices)
    machine |= {"python": platform.python_version(), "torch": version("torch")}
    return {"version": __version__, "commit": _commit(), "machine": machine}


def _commit() -> str | None:
    """Return the commit of the source checkout, `+changes` if it is changed; None when there is no checkout or git."""
    source = Path(__file__).resolve().parents[3]
    describe = ("describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=+changes")
    if not (source / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(source), *describe], capture_output=True, text=True, check=True
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
