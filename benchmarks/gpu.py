"""Everything that one GPU can tell within a time limit, written after each measurement; started by gpu.sh.

In this order: the audit of the importance ratio in every arithmetic, seconds and memory of an iteration with Stable
Diffusion v1.4's shapes, the bare diffusers pipeline beside it, memory against batch size, and DDPO on the embedded
model. What the time no longer holds is named in the result.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from architectures import SMALLER, saved_pipeline
from report import Case, summary
from settings import Settings
from throughput import PROMPTS, Bench, processor

HERE = Path(__file__).parent
PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
PAPER_SAMPLES, PAPER_STEPS = 256, 50
"""Of the paper's iteration (F.6)."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    samples: int = 256
    steps: int = 10
    """The denoising steps that are timed; 50 take five times as long, nothing else in an iteration depends on them."""
    batch: int = 16
    batches: tuple[int, ...] = (8, 16, 32, 64, 128)
    precisions: tuple[str, ...] = PRECISIONS
    full: bool = True
    embedded_iterations: int = 200


TINY = Sizes(samples=4, steps=2, batch=2, batches=(), precisions=(), full=False, embedded_iterations=0)
"""To try it out without a GPU: one iteration, which is measured as all others are, and the bare pipeline."""


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machine", required=True, help="kind of machine, for the name of the result")
    parser.add_argument("--date", default=time.strftime("%Y-%m-%d"), help="for the name of the result")
    parser.add_argument("--minutes", type=float, default=25.0, help="nothing is begun after these")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--architecture", choices=list(SMALLER), default="sd14")
    parser.add_argument("--tiny", action="store_true", help="sizes for a CPU")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/ddpo-benchmarks"), help="for random weights")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    return parser.parse_args()


class Measurements:
    """The measurements in their order, each a name and a function that returns plain values."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self.chosen, self.sizes = chosen, TINY if chosen.tiny else Sizes()
        self.bench = Bench(argparse.Namespace(systems="ddpo", cache=chosen.cache))
        folder = saved_pipeline(chosen.architecture, chosen.cache.expanduser())
        self.settings = Settings(
            model=str(folder),
            prompts=PROMPTS,
            device=chosen.device,
            threads=1 if chosen.tiny else 2,
            samples=self.sizes.samples,
            updates=2 if chosen.tiny else 4,
            steps=self.sizes.steps,
            guidance_scale=5.0,
            lora_rank=None,
            precision="fp16" if chosen.device == "cuda" else "fp32",
            iterations=1,
            sample_batch=self.sizes.batch,
            train_batch=self.sizes.batch,
        )

    def all(self) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
        """Yield what is to be measured, what matters most first."""
        sizes, full = self.sizes, self.settings
        lora = replace(full, lora_rank=4)
        few = replace(lora, samples=sizes.batch, updates=1)
        audits = {f"ratio audit, LoRA, {each}": replace(few, precision=each) for each in sizes.precisions}
        yield from self._runs(audits | {"iteration, LoRA": lora} | ({"iteration, full": full} if sizes.full else {}))
        yield "bare diffusers pipeline", self._bare_pipeline
        yield from self._runs(
            {
                f"memory, LoRA, batch {batch}": replace(
                    few, samples=batch, steps=2, sample_batch=batch, train_batch=batch
                )
                for batch in sizes.batches
            }
        )
        if sizes.embedded_iterations:
            yield "embedded model", self._embedded
        fewer = replace(lora, samples=max(sizes.batch, sizes.samples // 4))
        others = [each for each in sizes.precisions if each != full.precision]
        yield from self._runs({f"iteration, LoRA, {each}": replace(fewer, precision=each) for each in others})

    def _runs(self, settings: dict[str, Settings]) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
        for name, each in settings.items():
            yield name, partial(self._iteration, each)

    def _iteration(self, settings: Settings) -> dict[str, Any]:
        """Return seconds, memory and the audit of an iteration and, by steps and samples, the paper's seconds."""
        run = self.bench.run("ddpo", settings, f"{settings.precision}, rank {settings.lora_rank}")
        figures = summary(Case("", runs=[run]), "ddpo")
        by_steps = figures["seconds"]["rollout"] + figures["seconds"]["update"]
        others = figures["seconds"]["total"] - by_steps
        share = PAPER_SAMPLES / settings.samples
        return {
            "settings": {name: value for name, value in asdict(settings).items() if name not in ("model", "prompts")},
            **figures,
            "paper_iteration_seconds": share * (by_steps * PAPER_STEPS / settings.steps + others),
            "ratio_error": run.measurement.ratio_error,
            "noise_floor": run.measurement.noise_floor,
            "clip": 1e-4,
        }

    def _bare_pipeline(self) -> dict[str, Any]:
        """Return the seconds in which the stock pipeline draws as many samples with as many steps."""
        import torch
        from diffusers import StableDiffusionPipeline

        settings = self.settings
        dtype = torch.float16 if settings.precision == "fp16" else torch.float32
        pipeline = StableDiffusionPipeline.from_pretrained(settings.model, torch_dtype=dtype).to(settings.device)
        pipeline.set_progress_bar_config(disable=True)
        number, seconds = min(settings.samples, 2 * settings.sample_batch), []
        for _ in range(2):
            start = time.perf_counter()
            for _ in range(number // settings.sample_batch):
                pipeline(
                    [PROMPTS[0]] * settings.sample_batch,
                    num_inference_steps=settings.steps,
                    guidance_scale=settings.guidance_scale,
                    eta=1.0,
                    output_type="np",
                )
            seconds.append(time.perf_counter() - start)
        return {"samples_per_second": number / seconds[-1], "steps": settings.steps, "decoding": "included"}

    def _embedded(self) -> dict[str, Any]:
        """Train the default recipe and return its first and last metrics."""
        iterations = self.sizes.embedded_iterations
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder, "run")
            settings = [f"iterations={iterations}", f"device={self.chosen.device}", "evaluation.every=20"]
            command = [sys.executable, "-m", "ddpo", "train", *settings, "--quiet", "--output", str(run)]
            start = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(done.stderr[-500:])
            rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return {
            "seconds": time.perf_counter() - start,
            "command": " ".join(settings),
            "first": rows[0],
            "last": rows[-1],
        }


def measure_all(chosen: argparse.Namespace) -> Path:
    """Measure what the time holds; write the result after each measurement and return its file."""
    begin, measurements = time.monotonic(), Measurements(chosen)
    target = chosen.output / f"{chosen.date}-{chosen.machine}-gpu.json"
    chosen.output.mkdir(parents=True, exist_ok=True)
    about = {"machine": chosen.machine, "date": chosen.date, "processor": processor(chosen.device)}
    about |= {"command": f"benchmarks/gpu.sh {chosen.machine}", "architecture": chosen.architecture}
    result: dict[str, Any] = {"about": about}
    for name, work in measurements.all():
        start = time.monotonic()
        if start - begin > 60 * chosen.minutes:
            result[name] = {"left_out": f"no time was left of {chosen.minutes:g} minutes"}
            continue
        try:
            result[name] = work()
        except (Exception, SystemExit) as error:  # the next measurement may work: out of memory, for one
            result[name] = {"failed": " ".join(str(error).split())[-500:]}
        print(f"{name}: {time.monotonic() - start:.0f} s: {json.dumps(result[name])[:300]}", file=sys.stderr)
        target.write_text(json.dumps(result, indent=1) + "\n")
    return target


if __name__ == "__main__":
    print(measure_all(options()))
