"""Rollout: drawing trajectories from the policy. Replay: the log-probability of stored steps under it now.

Both phases run the network on exactly `batch_size` rows, filling up a short last batch: kernels chosen for
another batch size round differently, and in half precision that alone would move the importance ratio
further than the clip range allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ddpo.core.kernel import Gaussian
from ddpo.core.policy import Policy
from ddpo.core.trajectory import Conditioning, Minibatch, Trajectory, take


def noise_stream(seeds: Sequence[int], shape: tuple[int, ...], device: torch.device) -> Iterator[Tensor]:
    """Yield standard normal noise `(B, *shape)` float32 for ever, row i from its own generator seeded `seeds[i]`.

    Noise is drawn on the CPU so that a sample is the same on any device, in any batch, on any rank; diffusers
    pipelines given the same CPU generators draw the same numbers.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    while True:
        yield torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(device)


def _fill(conditioning: Conditioning, seeds: Sequence[int], rows: int) -> tuple[dict[str, Tensor], list[int]]:
    """Repeat the last sample until there are `rows`."""
    index = torch.arange(rows).clamp(max=len(seeds) - 1)
    return take(conditioning, index), [seeds[i] for i in index.tolist()]


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
        part = _rollout_batch(policy, *_fill(take(conditioning, slice(start, start + len(rows))), rows, batch_size))
        parts.append(_first(part, len(rows)))
        progress(start + len(rows))
    return Trajectory.concatenate(parts)


def _rollout_batch(policy: Policy, conditioning: Conditioning, seeds: Sequence[int]) -> Trajectory:
    noise = noise_stream(seeds, policy.sample_shape, policy.device)
    states, means, log_probs = [next(noise)], [], []
    for step in range(len(policy.sampler)):
        step_B = torch.full((len(seeds),), step, device=policy.device)
        gaussian = policy.step(states[-1], step_B, conditioning)
        states.append(gaussian.sample(next(noise)))
        if step < policy.sampler.steps_with_likelihood:
            means.append(gaussian.mean)
            log_probs.append(gaussian.log_prob(states[-1]))
    return Trajectory(conditioning, torch.stack(states, 1), torch.stack(means, 1), torch.stack(log_probs, 1))


def _first(trajectory: Trajectory, number: int) -> Trajectory:
    if number == len(trajectory):
        return trajectory
    return Trajectory(
        take(trajectory.conditioning, slice(number)),
        trajectory.states[:number],
        trajectory.means[:number],
        trajectory.log_prob_BL[:number],
    )


@dataclass(frozen=True)
class Replay:
    """Stored steps seen by the present policy."""

    log_prob_N: Tensor
    """`(N,)`: log p_theta(x_{t-1} | x_t, c), nats."""
    kl_N: Tensor
    """`(N,)`: exact KL(policy that drew the step || present policy), nats; detached."""


def replay(policy: Policy, batch: Minibatch) -> Replay:
    """Return the log-probability of each stored step of `batch` under the present parameters, with gradient."""
    number = len(batch)
    index_N = torch.arange(batch.rows or number, device=batch.sample_N.device).clamp(max=number - 1)
    filled = replace(batch, sample_N=batch.sample_N[index_N], step_N=batch.step_N[index_N])
    gaussian = policy.step(filled.state_N, filled.step_N, filled.conditioning_N)
    gaussian = Gaussian(gaussian.mean[:number], gaussian.std_B[:number])
    return Replay(gaussian.log_prob(batch.next_state_N), gaussian.kl(batch.mean_N).detach())
