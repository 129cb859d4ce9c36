"""Measure samples per second and seconds per phase of ddpo and of TRL's DDPOTrainer; see README.md.

python benchmarks/throughput.py --machine xeon-2-cores --date 2026-01-31
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from architectures import SMALLER, saved_pipeline
from environment import trl_python
from report import Case, Run, samples_per_second, seconds, to_json, to_markdown
from settings import Measurement, Settings

HERE = Path(__file__).parent
PROMPTS = tuple(f"a {animal}" for animal in ("cat", "dog", "bear", "lion", "wolf", "fox", "goat", "hen"))
DEFAULTS: dict[str, dict[str, Any]] = {
    "embedded": {
        "samples": 64, "steps": 10, "guidance": 3.0, "precision": "fp32", "batch_size": 16, "iterations": 3,
        "repeats": 3, "systems": "ddpo,trl",
    },
    "small": {
        "samples": 32, "steps": 10, "guidance": 5.0, "precision": "fp32", "batch_size": 16, "iterations": 2,
        "repeats": 3, "systems": "ddpo,trl",
    },
    "sd14": {
        "samples": 32, "steps": 50, "guidance": 5.0, "precision": "bf16", "batch_size": 16, "iterations": 2,
        "repeats": 1, "systems": "ddpo",
    },
}  # fmt: skip
"""What is measured when an option is not given. Those of sd14 also serve sd14-tiny, `small` the other architectures."""


def options(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", choices=["embedded", *SMALLER], default="embedded")
    parser.add_argument("--model", help="a folder in diffusers format, instead of the architecture's model")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--systems", help="ddpo, trl or ddpo,trl")
    parser.add_argument("--train", default="full,lora", help="full, lora or full,lora")
    parser.add_argument("--lora-rank", type=int, default=4)
    parser.add_argument("--samples", type=int, help="samples an iteration")
    parser.add_argument("--updates", type=int, default=4, help="updates an iteration")
    parser.add_argument("--steps", type=int, help="denoising steps")
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=["fp32", "tf32", "bf16", "fp16"], help="of ddpo")
    parser.add_argument("--trl-precision", choices=["fp32", "bf16", "fp16"], default="fp32")
    parser.add_argument("--batch-size", type=int, help="of ddpo")
    parser.add_argument("--trl-batch", default="auto", help="its sample,train batch sizes; auto: the fastest it has")
    parser.add_argument("--iterations", type=int, help="counted iterations of a run, after one of warm-up")
    parser.add_argument("--repeats", type=int, help="runs of each system")
    parser.add_argument("--machine", default="unnamed", help="kind of machine, for the name of the result")
    parser.add_argument("--date", default=time.strftime("%Y-%m-%d"), help="for the name of the result")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/ddpo-benchmarks"), help="for downloads")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    chosen = parser.parse_args(arguments)
    kind = chosen.architecture.removesuffix("-tiny")
    for name, value in DEFAULTS.get(kind, DEFAULTS["small"]).items():
        if getattr(chosen, name) is None:
            setattr(chosen, name, value)
    chosen.cache = chosen.cache.expanduser()
    return chosen


def model_folder(chosen: argparse.Namespace) -> Path:
    """Return the folder of the pipeline to measure."""
    if chosen.model is not None:
        return Path(chosen.model).expanduser().resolve()
    if chosen.architecture != "embedded":
        return saved_pipeline(chosen.architecture, chosen.cache)
    import ddpo

    folder = ddpo.embedded_model()
    if not folder.is_dir():
        raise SystemExit("this checkout has no embedded model; give --model FOLDER")
    return folder


def cases(chosen: argparse.Namespace) -> Iterator[tuple[Case, dict[str, Settings]]]:
    """Yield what is measured, with the settings of each system."""
    folder = str(model_folder(chosen))
    for trained in chosen.train.split(","):
        rank = chosen.lora_rank if trained == "lora" else None
        ours = Settings(
            model=folder,
            prompts=PROMPTS,
            device=chosen.device,
            threads=chosen.threads,
            samples=chosen.samples,
            updates=chosen.updates,
            steps=chosen.steps,
            guidance_scale=chosen.guidance,
            lora_rank=rank,
            precision=chosen.precision,
            iterations=chosen.iterations,
            sample_batch=chosen.batch_size,
            train_batch=chosen.batch_size,
        )
        what = "full fine-tuning" if rank is None else f"LoRA rank {rank}"
        name = f"{what[0].upper()}{what[1:]}, {chosen.threads} thread{'s' * (chosen.threads > 1)}"
        theirs = replace(ours, precision=chosen.trl_precision)
        both = {"ddpo": ours, "trl": theirs}
        yield Case(name), {system: both[system] for system in chosen.systems.split(",")}


class Bench:
    """Runs workers, each a process of its own, and says on stderr how far it is."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self.chosen = chosen
        self.python = {"ddpo": Path(sys.executable)}
        if "trl" in chosen.systems.split(","):
            self.python["trl"] = trl_python(chosen.cache)

    def run(self, system: str, settings: Settings, label: str) -> Run:
        """Measure one system once.

        Raises:
            SystemExit: the worker failed; with the end of what it said.
        """
        load = other_load()
        environment = os.environ | {"OMP_NUM_THREADS": str(settings.threads), "HF_HUB_OFFLINE": "1"}
        command = [self.python[system], HERE / f"{system}_worker.py", settings.to_json()]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{label}: {system} failed\n{done.stderr[-3000:]}")
        run = Run(system, settings, Measurement.from_output(done.stdout), load)
        batch = f"batch {settings.sample_batch}/{settings.train_batch}"
        print(f"{label}: {system}, {batch}: {samples_per_second(run):.2f} samples/s", file=sys.stderr, flush=True)
        return run

    def measure(self, case: Case, systems: dict[str, Settings]) -> Case:
        """Make a case's alternating runs."""
        if "trl" in systems:
            systems |= {"trl": self.with_batches(case, systems["trl"])}
        for repeat in range(self.chosen.repeats):
            for system, settings in systems.items():
                case.runs.append(self.run(system, settings, f"{case.name}, {repeat + 1}/{self.chosen.repeats}"))
        return case

    def with_batches(self, case: Case, settings: Settings) -> Settings:
        """Return TRL's settings with the batch sizes asked for, or with its fastest, phase by phase."""
        if self.chosen.trl_batch != "auto":
            sample, train = map(int, self.chosen.trl_batch.split(","))
            return replace(settings, sample_batch=sample, train_batch=train)
        for sample, train in trl_batches(settings.samples, settings.updates):
            candidate = replace(settings, sample_batch=sample, train_batch=train, iterations=1)
            case.tuning.append(self.run("trl", candidate, f"{case.name}, choosing TRL's batch sizes"))
        sample, train = fastest_batches(case.tuning)
        return replace(settings, sample_batch=sample, train_batch=train)


def trl_batches(samples: int, updates: int) -> list[tuple[int, int]]:
    """Return sample and train batch sizes worth trying: every train batch from 4 up, every sample batch from 8 up."""
    trains = [size for size in (4, 8, 16, 32, 64) if (samples // updates) % size == 0] or [1]
    sizes = [size for size in (8, 16, 32, 64, 128) if samples % size == 0 and size % trains[0] == 0] or [samples]
    number = max(len(trains), len(sizes))
    pairs = {(sizes[min(i, len(sizes) - 1)], trains[min(i, len(trains) - 1)]) for i in range(number)}
    return sorted((sample, train) for sample, train in pairs if sample >= train and sample % train == 0)


def fastest_batches(tried: Sequence[Run]) -> tuple[int, int]:
    """Return the pair with the least rollout plus update time; the two phases do not influence each other."""
    rollout = {run.settings.sample_batch: seconds(run, "rollout") + seconds(run, "decode") for run in tried}
    update = {run.settings.train_batch: seconds(run, "update") for run in tried}
    possible = [(sample, train) for sample in rollout for train in update if sample % train == 0]
    return min(possible, key=lambda pair: rollout[pair[0]] + update[pair[1]])


def other_load(wait: float = 2.0) -> float:
    """Return how many cores other programs keep busy, watched for `wait` seconds."""
    before = _busy_seconds()
    time.sleep(wait)
    return max(0.0, _busy_seconds() - before) / wait


def _busy_seconds() -> float:
    user, nice, system = map(int, Path("/proc/stat").read_text().split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def processor(device: str) -> str:
    """Name the machine's processor without naming the machine."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    name = models[0].partition(":")[2].strip() if models else platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def model_name(chosen: argparse.Namespace) -> str:
    """Name the model without its place on this machine."""
    return Path(chosen.model).resolve().name if chosen.model else str(chosen.architecture)


def about(chosen: argparse.Namespace, arguments: Sequence[str]) -> dict[str, Any]:
    """Describe the benchmark for the head of its result; nothing of it tells whose machine it was."""
    hidden = {"--model", "--cache", "--output"}
    pairs = zip(("", *arguments), arguments, strict=False)
    shown = [after for before, after in pairs if not {before, after.partition("=")[0]} & hidden]
    return {
        "machine": chosen.machine,
        "date": chosen.date,
        "processor": processor(chosen.device),
        "command": shlex.join(["python", "benchmarks/throughput.py", *shown]),
        "work": f"Model {model_name(chosen)}: {chosen.samples} samples an iteration, {chosen.steps} steps, guidance "
        f"{chosen.guidance:g}, {chosen.updates} updates; counted iterations a run: {chosen.iterations}",
    }


def main(arguments: Sequence[str]) -> None:
    chosen = options(arguments)
    bench, measured = Bench(chosen), list[Case]()
    head = about(chosen, arguments)
    chosen.output.mkdir(parents=True, exist_ok=True)
    target = chosen.output / f"{chosen.date}-{chosen.machine}-{model_name(chosen)}"
    for case, systems in cases(chosen):
        measured.append(bench.measure(case, systems))
        Path(f"{target}.json").write_text(to_json(measured, head))
        Path(f"{target}.md").write_text(to_markdown(measured, head))
    print(Path(f"{target}.md").read_text())


if __name__ == "__main__":
    main(sys.argv[1:])
