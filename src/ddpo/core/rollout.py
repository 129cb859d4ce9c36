"""Rollout: drawing trajectories from the policy. Replay: the log-probability of stored steps under it now.

Both phases run the network on exactly `batch_size` rows, filling up a short last batch: kernels chosen for
another batch size round differently, and in half precision that alone would move the importance ratio
further than the clip range allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddpo.core.conditioning import Conditioning
from ddpo.core.gaussian import Gaussian
from ddpo.core.policy import Policy
from ddpo.core.trajectory import Pairs, Trajectory


def denoising_step(policy: Policy, x: Tensor, step_B: Tensor, conditioning: Conditioning) -> Gaussian:
    """Return the Gaussian `p_theta(x_{t-1} | x_t, c)` of denoising step `step_B` `(B,)` at `x` `(B, ...)` (eq. 2)."""
    prediction = policy.predict(x, policy.kernel.time(step_B), conditioning, guided=True)
    return policy.kernel.gaussian(x, prediction, step_B)


def noise_stream(seeds: Sequence[int], shape: tuple[int, ...], device: torch.device) -> Iterator[Tensor]:
    """Yield standard normal noise `(B, *shape)` float32 for ever, row i from its own generator seeded `seeds[i]`.

    Noise is drawn on the CPU so that a sample is the same on any device, in any batch, on any rank; diffusers
    pipelines given the same CPU generators draw the same numbers.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    while True:
        yield torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(device)


def even_batch(number: int, most: int) -> int:
    """Return the rows of a pass, `most` at most, with which `number` samples need the fewest passes and rows."""
    passes = -(-number // most)
    return -(-number // passes)


@torch.no_grad()
def rollout(
    policy: Policy,
    conditioning: Conditioning,
    seeds: Sequence[int],
    *,
    batch_size: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Trajectory:
    """Draw one trajectory for each seed, in batches of `batch_size`, on the policy's device.

    `conditioning` holds one row a seed. `progress` is called with the number of samples drawn so far.
    """
    parts = []
    for start in range(0, len(seeds), batch_size):
        rows = seeds[start : start + batch_size]
        index = torch.arange(start, start + batch_size).clamp(max=start + len(rows) - 1)  # the last sample fills up
        filled = [seeds[place] for place in index.tolist()]
        part = _rollout_batch(policy, conditioning.take(index.to(conditioning.row_B.device)), filled)
        parts.append(part if len(rows) == batch_size else part.take(slice(len(rows))))
        progress(start + len(rows))
    return Trajectory.concatenate(parts)


def _rollout_batch(policy: Policy, conditioning: Conditioning, seeds: Sequence[int]) -> Trajectory:
    noise = noise_stream(seeds, policy.sample_shape, policy.device)
    states, means, log_probs = [next(noise)], [], []
    stochastic = set(policy.kernel.stochastic_L.tolist())
    for step in range(len(policy.kernel)):
        step_B = torch.full((len(seeds),), step, device=policy.device)
        gaussian = denoising_step(policy, states[-1], step_B, conditioning)
        states.append(gaussian.sample(next(noise)))
        if step in stochastic:
            means.append(gaussian.mean)
            log_probs.append(gaussian.log_prob(states[-1]))
    return Trajectory(
        policy.kernel, conditioning, torch.stack(states, 1), torch.stack(means, 1), torch.stack(log_probs, 1)
    )


@dataclass(frozen=True)
class Replay:
    """Stored steps seen by the present policy."""

    log_prob_N: Tensor
    """`(N,)`: log p_theta(x_{t-1} | x_t, c), nats."""
    kl_N: Tensor
    """`(N,)`: exact KL(policy that drew the step || present policy), nats; detached."""


def replay(policy: Policy, pairs: Pairs) -> Replay:
    """Return the log-probability of each stored step of `pairs` under the present parameters, with gradient."""
    number, filled = len(pairs), pairs.filled()
    gaussian = denoising_step(policy, filled.state_N, filled.step_N, filled.conditioning_N)
    gaussian = Gaussian(gaussian.mean[:number], gaussian.std_B[:number])
    return Replay(gaussian.log_prob(pairs.next_state_N), gaussian.kl(pairs.mean_N).detach())
