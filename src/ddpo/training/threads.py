"""How many CPU threads train a model fastest on this machine as it is now."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import torch

from ddpo.core.policy import Policy
from ddpo.core.prompt import Prompt
from ddpo.core.rollout import denoising_step
from ddpo.runtime.processes import AVAILABLE_THREADS, Runtime

log = logging.getLogger(__name__)
ROUNDS = 2
"""Times that each number of threads is measured, in turns: the machine may have other work."""
WORTHWHILE = 0.95
"""A larger number of threads is taken when it needs less than this share of the time."""


def choose_threads(policy: Policy, prompt: Prompt, batch_size: int, runtime: Runtime) -> int:
    """Return which of 1, 2, 4, ... threads of torch is fastest for a pass of the network as an update makes it.

    Several processes take what the first one measured. Nothing random is drawn and no gradient is left.
    """

    def one_pass() -> None:
        conditioning = policy.encode([prompt]).take(torch.zeros(batch_size, dtype=torch.int64, device=policy.device))
        x = torch.ones(batch_size, *policy.sample_shape, device=policy.device)
        step_B = torch.zeros(batch_size, dtype=torch.int64, device=policy.device)
        runtime.backward(denoising_step(policy, x, step_B, conditioning).mean.square().mean())
        for parameter in policy.parameters():
            parameter.grad = None

    return runtime.gather([fastest(one_pass, AVAILABLE_THREADS // runtime.processes)])[0]


def fastest(work: Callable[[], object], most: int, clock: Callable[[], float] = time.perf_counter) -> int:
    """Return which of 1, 2, 4, ... threads, `most` at most, do `work` in the least time; more only if it pays."""
    chosen = 1
    while 2 * chosen <= most:
        rounds = [[_timed(work, number, clock) for number in (chosen, 2 * chosen)] for _ in range(1 + ROUNDS)]
        one, two = (min(seconds) for seconds in zip(*rounds[1:], strict=True))  # the first pass has memory to take
        if two >= WORTHWHILE * one:
            break
        log.info("Threads: %d are %.1f times as fast as %d.", 2 * chosen, one / two, chosen)
        chosen *= 2
    return chosen


def _timed(work: Callable[[], object], threads: int, clock: Callable[[], float]) -> float:
    torch.set_num_threads(threads)
    start = clock()
    work()
    return clock() - start
