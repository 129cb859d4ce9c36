"""Measure what docs/performance.md says of arithmetic and layout, on one thread, and print it as tables.

python benchmarks/arithmetic.py
python benchmarks/arithmetic.py --compile    # torch.compile too, which takes minutes and a C++ compiler

The noise floor of log-probabilities in each arithmetic, and the processor time of a UNet's pass with channels first and
last, with fused and plain attention. Processor time, not the clock's: other work on the machine disturbs it little.
"""

from __future__ import annotations

import argparse
import copy
import time
from statistics import median
from typing import Any

import torch

from architectures import SMALLER, UNET
from ddpo import embedded_model, load_config
from ddpo.core.noise_floor import noise_floor
from ddpo.core.prompt import Prompt
from ddpo.core.rollout import replay, rollout
from ddpo.core.trajectory import Pairs
from ddpo.evaluation.loading import load_policy
from throughput import processor

SAMPLES, ROWS, REPEATS = 8, 32, 7


def noise(precision: str, rank: int | None) -> tuple[float, float]:
    """Return the noise in a step's log-probability, nats: standard deviation and largest over all pairs of a batch."""
    lora = [] if rank is None else [f"lora.rank={rank}"]
    policy: Any = load_policy(load_config(None, [f"precision={precision}", "threads=1", *lora]), torch.device("cpu"))
    drawn = rollout(policy, policy.encode([Prompt("a cat")] * SAMPLES), range(SAMPLES), batch_size=SAMPLES)
    likely = drawn.log_prob_BL.shape[1]
    samples, steps = torch.arange(SAMPLES).repeat_interleave(likely), torch.arange(likely).repeat(SAMPLES)
    pairs = Pairs(drawn, samples, steps, torch.zeros(SAMPLES), rows=len(steps))
    with torch.no_grad():
        noise_N = noise_floor(
            policy, lambda shifted: replay(shifted, pairs).log_prob_N, replay(policy, pairs).log_prob_N
        )
    return float(noise_N.square().mean().sqrt()), float(noise_N.max())


def unets() -> dict[str, Any]:
    """Return the UNets whose passes are timed, by name."""
    from diffusers import UNet2DConditionModel

    small = {name: UNet2DConditionModel(**UNET | SMALLER[name]["unet"]) for name in ("1.5m", "23m")}
    return {"embedded": UNet2DConditionModel.from_pretrained(embedded_model() / "unet").float(), **small}


def milliseconds(unet: Any, *, backward: bool) -> float:
    """Return the processor time of a pass of `ROWS` rows, a row."""
    size, width = unet.config.sample_size, unet.config.cross_attention_dim
    x, words = torch.randn(ROWS, unet.config.in_channels, size, size), torch.randn(ROWS, 16, width)
    start = time.process_time()
    with torch.set_grad_enabled(backward):
        prediction = unet(x, torch.full((ROWS,), 500), words).sample
        if backward:
            prediction.square().mean().backward()
    return 1000 * (time.process_time() - start) / ROWS


def variants(unet: Any) -> dict[str, Any]:
    """Return a UNet in the three ways that are compared."""
    from diffusers.models.attention_processor import AttnProcessor

    last = copy.deepcopy(unet).to(memory_format=torch.channels_last)
    plain = copy.deepcopy(last)
    plain.set_attn_processor(AttnProcessor())
    return {"first, fused": unet, "last, fused": last, "last, plain": plain}


def print_compiled(name: str, unet: Any) -> None:
    """Print what torch.compile makes of a UNet, and how long that takes."""
    plain = copy.deepcopy(unet).to(memory_format=torch.channels_last)
    compiled = torch.compile(copy.deepcopy(plain))
    start = time.perf_counter()
    for backward in (False, True):
        milliseconds(compiled, backward=backward)
    seconds = time.perf_counter() - start
    for backward in (False, True):
        pairs = [[milliseconds(one, backward=backward) for one in (plain, compiled)] for _ in range(REPEATS)]
        before, after = (median(times) for times in zip(*pairs, strict=True))
        row = f"{name}, {'with gradient' if backward else 'forward'}"
        print(f"| {row} | {before:.3g} | {after:.3g} ({after / before - 1:+.0%}) | {seconds:.0f} s |", flush=True)


def adamw_milliseconds(unet: Any, **options: bool) -> float:
    """Return the processor time of a step of AdamW on all weights."""
    parameters, times = list(unet.parameters()), []
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer = torch.optim.AdamW(parameters, lr=1e-9, **options)
    for _ in range(1 + REPEATS):
        start = time.process_time()
        optimizer.step()
        times.append(1000 * (time.process_time() - start))
    return median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile", action="store_true", help="torch.compile too")
    with_compile = parser.parse_args().compile
    torch.set_num_threads(1)
    print(f"{processor('cpu')}, torch {torch.__version__}")
    print("\n| noise, nats | standard deviation | largest |\n|---|---|---|")
    for precision, rank in (("fp32", None), ("fp32", 4), ("bf16", None), ("bf16", 4)):
        deviation, largest = noise(precision, rank)
        name = f"{precision}, {'full' if rank is None else f'LoRA {rank}'}"
        print(f"| {name} | {deviation:.2g} | {largest:.2g} |", flush=True)
    print("\n| UNet, pass | channels first, fused attention | last, fused | last, plain |\n|---|---|---|---|")
    for name, unet in unets().items():
        compared = variants(unet)
        for backward in (False, True):
            rounds = [[milliseconds(one, backward=backward) for one in compared.values()] for _ in range(1 + REPEATS)]
            first, *others = (median(times) for times in zip(*rounds[1:], strict=True))
            cells = " | ".join(f"{value:.3g} ({value / first - 1:+.0%})" for value in others)
            row = f"{name}, {'with gradient' if backward else 'forward'}"
            print(f"| {row} | {first:.3g} ms a row | {cells} |", flush=True)
    print("\n| UNet | AdamW, a step | fused |\n|---|---|---|")
    for name, unet in unets().items():
        print(f"| {name} | {adamw_milliseconds(unet):.1f} ms | {adamw_milliseconds(unet, fused=True):.1f} ms |")
    if with_compile:
        print("\n| UNet, pass | ms a row | compiled | to compile both |\n|---|---|---|---|")
        for name, unet in unets().items():
            print_compiled(name, unet)


if __name__ == "__main__":
    main()
