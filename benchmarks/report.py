"""From measurements to the JSON and the Markdown table in results/."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from settings import PHASES, Measurement, Settings

NAMES = {"ddpo": "ddpo", "trl": "TRL 0.23.1"}


@dataclass
class Run:
    """One worker process."""

    system: str
    settings: Settings
    measurement: Measurement
    other_load: float
    """CPU cores that other programs kept busy just before the run."""


@dataclass
class Case:
    """Alternating runs of the systems on one piece of work."""

    name: str
    """What is trained, with how many threads."""
    tuning: list[Run] = field(default_factory=list)
    """Short runs that chose TRL's batch sizes."""
    runs: list[Run] = field(default_factory=list)
    """In the order in which they were made."""

    def of(self, system: str) -> list[Run]:
        return [run for run in self.runs if run.system == system]


def seconds(run: Run, phase: str) -> float:
    """Return the median seconds of a phase, or of the `total`, over a run's counted iterations."""
    return median(iteration[phase] for iteration in run.measurement.seconds)


def samples_per_second(run: Run) -> float:
    return run.settings.samples / seconds(run, "total")


def work_TFLOP(run: Run) -> dict[str, float]:
    """Return the UNet's work in an iteration's rollout and update: what the mathematics needs, none of it padding.

    Two passes a step with guidance, in the rollout forward, in the update forward and backward. Work of the VAE and
    the text encoder, below 1 % for Stable Diffusion, is left out.
    """
    settings, measured = run.settings, run.measurement
    passes = settings.samples * settings.steps * (1 if settings.guidance_scale == 1 else 2)
    return {
        "rollout": passes * measured.forward_GFLOP / 1000,
        "update": passes * measured.forward_backward_GFLOP / 1000,
    }


def share_of_matrix_rate(run: Run, *phases: str) -> float:
    """Return the UNet's work in these phases over what a matrix product does in their time; none: the iteration."""
    work = work_TFLOP(run)
    time = sum(seconds(run, phase) for phase in phases) if phases else seconds(run, "total")
    return sum(work[phase] for phase in phases or work) / time / run.measurement.matrix_TFLOPS


def ratios(case: Case) -> list[float]:
    """Return samples/s of ddpo over TRL, pair by pair: the two runs of a pair saw the same state of the machine."""
    pairs = zip(case.of("ddpo"), case.of("trl"), strict=False)
    return [samples_per_second(ours) / samples_per_second(theirs) for ours, theirs in pairs]


def summary(case: Case, system: str) -> dict[str, Any]:
    """Return a system's medians over its runs."""
    runs = case.of(system)

    def middle(values: Iterable[float]) -> float:
        return float(f"{median(values):.4g}")

    measurements = [run.measurement for run in runs]
    device = [m.peak_device_memory_GB for m in measurements if m.peak_device_memory_GB is not None]
    return {
        "samples_per_second": middle(samples_per_second(run) for run in runs),
        "seconds": {phase: middle(seconds(run, phase) for run in runs) for phase in (*PHASES, "total")},
        "peak_memory_GB": middle(m.peak_memory_GB for m in measurements),
        "loaded_memory_GB": middle(m.loaded_memory_GB for m in measurements),
        "peak_device_memory_GB": middle(device) if device else None,
        "matrix_TFLOPS": middle(m.matrix_TFLOPS for m in measurements),
        "share_of_matrix_rate": middle(share_of_matrix_rate(run) for run in runs),
        "share_of_matrix_rate_rollout": middle(share_of_matrix_rate(run, "rollout") for run in runs),
        "share_of_matrix_rate_update": middle(share_of_matrix_rate(run, "update") for run in runs),
        "reward_mean": middle(m.reward_mean for m in measurements),
    }


def to_json(cases: list[Case], about: dict[str, Any]) -> str:
    """Return everything measured, the model named without its place on this machine."""
    tree = {"about": about, "cases": [_case_tree(case) for case in cases]}
    return json.dumps(tree, indent=1) + "\n"


def _case_tree(case: Case) -> dict[str, Any]:
    systems = dict.fromkeys(run.system for run in case.runs)
    return {
        "name": case.name,
        "samples_per_second_over_trl": ratios(case),
        "medians": {system: summary(case, system) for system in systems},
        "tuning": [_run_tree(run) for run in case.tuning],
        "runs": [_run_tree(run) for run in case.runs],
    }


def _run_tree(run: Run) -> dict[str, Any]:
    tree = asdict(run)
    tree["settings"]["model"] = Path(run.settings.model).name
    del tree["settings"]["prompts"]
    return tree


def to_markdown(cases: list[Case], about: dict[str, Any]) -> str:
    """Return the page that people read."""
    lines = [f"# Throughput: {about['machine']}, {about['date']}", "", f"`{about['command']}`", ""]
    lines += [f"{about['processor']}. {about['work']}.", ""]
    for case in cases:
        lines += _case_lines(case)
    versions = {run.system: run.measurement.versions for case in cases for run in case.runs}
    lines += [f"{NAMES[system]}: {_listed(packages)}." for system, packages in versions.items()]
    return "\n".join(lines) + "\n"


def _listed(packages: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in packages.items())


def _case_lines(case: Case) -> list[str]:
    systems = list(dict.fromkeys(run.system for run in case.runs))
    columns = ["samples/s", *(f"{phase}, s" for phase in PHASES), "iteration, s", "matrix rate, TFLOP/s"]
    columns += ["share of it", "peak memory, GB", "mean reward"]
    lines = [f"## {case.name}", "", "| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {_system(case, system)} | {' | '.join(_cells(summary(case, system)))} |" for system in systems]
    if found := ratios(case):
        pairs = ", ".join(f"{ratio:.2f}" for ratio in found)
        lines += ["", f"Samples/s of ddpo over TRL: **{median(found):.2f}** (pair by pair: {pairs})."]
    for system in systems:
        rate = summary(case, system)
        share = f"{rate['share_of_matrix_rate_rollout']:.0%} in the rollout, {rate['share_of_matrix_rate_update']:.0%}"
        lines += [
            "",
            f"{NAMES[system]} reaches {share} in the update of the matrix rate; {_floor(case.of(system)[-1])}",
        ]
    load = max(run.other_load for run in case.runs)
    return [*lines, "", f"Before each run at most {load:.2f} cores were busy with other programs.", ""]


def _system(case: Case, system: str) -> str:
    settings = case.of(system)[0].settings
    batch = f"{settings.sample_batch}/{settings.train_batch}"
    return f"{NAMES[system]}, {settings.precision}, batch {batch}, runs: {len(case.of(system))}"


def _cells(rate: dict[str, Any]) -> list[str]:
    memory = f"{rate['peak_memory_GB']:.2f}"
    if rate["peak_device_memory_GB"] is not None:
        memory += f" (GPU {rate['peak_device_memory_GB']:.1f})"
    times = [f"{rate['seconds'][phase]:.3g}" for phase in (*PHASES, "total")]
    rates = [
        f"{rate['matrix_TFLOPS']:.3g}",
        f"{rate['share_of_matrix_rate']:.0%}",
        memory,
        f"{rate['reward_mean']:.3f}",
    ]
    return [f"{rate['samples_per_second']:.2f}", *times, *rates]


def _floor(run: Run) -> str:
    """Say what an iteration costs at least, and for Stable Diffusion's 50 steps also the paper's, of 256 samples."""
    work, rate = sum(work_TFLOP(run).values()), run.measurement.matrix_TFLOPS
    sentence = f"an iteration is {work:.3g} TFLOP of the UNet, {work / rate:.3g} s at that rate"
    if run.settings.steps != 50:
        return f"{sentence}."
    paper = 256 / run.settings.samples
    return f"{sentence} (256 samples: {work * paper / rate:.3g} s, measured {seconds(run, 'total') * paper:.3g} s)."
