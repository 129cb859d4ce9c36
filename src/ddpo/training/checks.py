"""What training refuses: samples and updates that are not finite, and a replay that is not exact."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from operator import itemgetter

import numpy as np
import torch
from torch import Tensor

from ddpo.algorithms import Algorithm
from ddpo.core.experience import Array, State
from ddpo.core.kernel import Kernel
from ddpo.core.minibatches import Batch
from ddpo.core.noise_floor import noise_floor
from ddpo.core.policy import Policy
from ddpo.core.prompt import Prompt
from ddpo.core.trajectory import Trajectory
from ddpo.runtime.errors import ConfigError, DivergenceError, ReplayError
from ddpo.runtime.processes import Runtime
from ddpo.training.iteration import Metrics
from ddpo.training.metrics import RATIO, PairMetrics

log = logging.getLogger(__name__)
NOISE_PARTS = 4
"""Microbatches of the first minibatch whose noise is measured, with three passes each."""


def check_samples(trajectory: Trajectory, policy: Policy, prompts: Sequence[Prompt], first: int) -> None:
    """Raise DivergenceError, naming sample and timestep, when a sample is not finite; the first has index `first`."""
    finite_BS = trajectory.states.isfinite().flatten(2).all(2)
    if finite_BS.all():
        return
    sample = int((~finite_BS.all(1)).nonzero()[0])
    step = max(0, int((~finite_BS[sample]).nonzero()[0]) - 1)  # state i + 1 is the outcome of step i
    whole = all(bool(parameter.isfinite().all()) for parameter in policy.parameters())
    raise DivergenceError(
        f"Sample {first + sample}, prompt '{prompts[sample].text}', is not finite after timestep "
        f"{trajectory.kernel.time_T[step].item():g}; "
        + ("the weights are: use precision=fp32." if whole else "neither is a weight of the model.")
    )


def check_credit(credit_K: Array, number: int, state: State, algorithm: str) -> None:
    """Raise ConfigError unless an algorithm gave a finite number for each sample, and a state that JSON holds."""
    if np.shape(credit_K) != (number,) or not np.isfinite(credit_K).all():
        raise ConfigError(f"algorithm: the credit of '{algorithm}' must be {number} finite numbers, one a sample.")
    try:
        json.dumps(state)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"algorithm: the state of '{algorithm}' must be plain values, which checkpoints hold as JSON: {error}."
        ) from error


def check_pairs(pairs: PairMetrics, prompts: Sequence[Prompt], first: int, runtime: Runtime) -> None:
    """Raise DivergenceError, naming a sample and its timestep, when a metric or the loss of a pair is not finite.

    `prompts` are those of this process's samples, the first of which has index `first`. All processes call this.
    """
    own = [(first + sample, prompts[sample].text, time) for sample, time in pairs.not_finite()]
    broken = runtime.gather(own)
    if not broken:
        return
    sample, text, time = broken[0]
    more = f" and {len(broken) - 1} more pairs" if len(broken) > 1 else ""
    raise DivergenceError(
        f"the loss is not finite for sample {sample}, prompt '{text}', at timestep {time:g}{more}; "
        "no weight was changed. Lower learning_rate or use precision=fp32."
    )


def measure_noise(algorithm: Algorithm, policy: Policy, minibatch: Batch, rows: int, runtime: Runtime) -> Metrics:
    """Return the noise of the arithmetic in the importance ratio, a standard deviation.

    It is that of a few microbatches of `rows`, spread over the minibatch, whose pairs may be sorted by step. Warns
    above half of the clip, where the noise alone clips one pair in twenty. Nothing for an algorithm without a ratio.
    All processes call this.
    """
    clip = 10 * algorithm.ratio_tolerance(math.prod(policy.sample_shape))
    if math.isinf(clip):
        return {}
    parts, squares = list(minibatch.split(rows)), []
    for place in sorted({round(place) for place in np.linspace(0, len(parts) - 1, NOISE_PARTS)}):
        noise_N = _noise_of(algorithm, policy, parts[place])
        if noise_N is None:
            return {}
        squares.append(float(noise_N.square().mean()))
    noise = float(np.sqrt(np.mean(runtime.gather(squares))))
    if noise > clip / 2 and runtime.is_main:
        log.warning(
            "The arithmetic moves the importance ratio by %.2g at random, more than half of the clip, %.2g: the clip "
            "acts on noise. Use precision=fp32, or fp16 in place of bf16, or a wider clip.",
            noise,
            clip,
        )
    return {"ratio/noise_floor": noise}


@torch.no_grad()
def _noise_of(algorithm: Algorithm, policy: Policy, batch: Batch) -> Tensor | None:
    metrics = algorithm.loss(policy, batch)[1]
    if RATIO not in metrics:
        return None
    return noise_floor(policy, lambda shifted: algorithm.loss(shifted, batch)[1][RATIO], metrics[RATIO])


def check_replay(pairs: PairMetrics, tolerance: float, kernel: Kernel, runtime: Runtime) -> Metrics:
    """Return the largest |ratio - 1| of pairs replayed before the first update, over all processes.

    Also for each stretch of the denoising run: the last steps are the most sensitive. All processes call this.

    Raises:
        ReplayError: it exceeds the `tolerance`, a tenth of the clip: the update would be noise.
    """
    errors = runtime.gather(pairs.largest_ratio_errors())
    error, time, _ = max(errors)
    if not error <= tolerance:
        step = int((kernel.time_T.double() - time).abs().argmin())
        raise ReplayError(
            f"Replay does not reproduce the rollout: before the first update the importance ratio at timestep "
            f"{time:g} (step {step + 1} of {len(kernel)}) is off by {error:.2g}, above {tolerance:.2g}, a tenth of the "
            "clip. Use precision=fp32 and compile=false, or a wider clip."
        )
    worst = {f"ratio/max_error_at_start/bucket_{bucket}": 0.0 for _, _, bucket in sorted(errors, key=itemgetter(2))}
    for value, _, bucket in errors:
        name = f"ratio/max_error_at_start/bucket_{bucket}"
        worst[name] = max(worst[name], value)
    return {"ratio/max_error_at_start": error, **worst}
