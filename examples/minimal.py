"""The whole method in one file: DDPO-IS makes the embedded model draw redder pictures, in about a minute.

    python examples/minimal.py

B samples, L denoising steps, N (sample, step) pairs. Paper: Black et al. 2023, sections C.1, C.3 and F.
"""

import torch

from ddpo.core.advantages import RunningStatistics
from ddpo.core.kernel import ddim
from ddpo.core.minibatches import shuffled_pairs
from ddpo.core.objectives import clipped_surrogate
from ddpo.core.rollout import replay, rollout
from ddpo.policies import PolicySettings
from ddpo.policies.loading import ModelSource
from ddpo.policies.stable_diffusion import StableDiffusionPolicy
from ddpo.prompts import load_prompts

ITERATIONS, SAMPLES, UPDATES, BATCH = 12, 32, 2, 32
CLIP_NATS, LEARNING_RATE, SEED = 1.64, 3e-4, 0


def redness(images: torch.Tensor) -> torch.Tensor:
    """Reward of images (B, 3, H, W) in [0, 1]: how much red exceeds green and blue, (B,)."""
    return (images[:, 0] - images[:, 1:].mean(1)).mean((1, 2))


def main() -> None:
    torch.set_num_threads(1)
    settings = PolicySettings(kernel=lambda schedule: ddim(schedule, steps=10), guidance_scale=3.0)
    policy = StableDiffusionPolicy.from_source(ModelSource(), settings)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
    source, statistics = load_prompts("simple-animals"), RunningStatistics()
    generator = torch.Generator().manual_seed(SEED)

    for iteration in range(ITERATIONS):
        # Collect: denoising runs are trajectories of an MDP; every step's log-probability is known.
        prompts = source.draw(SAMPLES, seed=SEED, iteration=iteration)
        seeds = range(iteration * SAMPLES, (iteration + 1) * SAMPLES)
        trajectory = rollout(policy, policy.encode(prompts), seeds, batch_size=BATCH)

        # The reward is a black box on pictures; normalised per prompt it is the advantage (F.3).
        reward_B = redness(policy.decode(trajectory.final))
        statistics, advantage_B = statistics.update([prompt.text for prompt in prompts], reward_B.numpy())
        advantage_B = torch.as_tensor(advantage_B, dtype=torch.float32)

        # Update: importance-weighted policy gradient, clipped (eq. 4); gradients span all steps of a sample (F.1).
        D = trajectory.dimensions
        for minibatch in shuffled_pairs(trajectory, advantage_B, number=UPDATES, generator=generator):
            for pairs in minibatch.split(BATCH):
                log_prob_N = replay(policy, pairs).log_prob_N
                loss, _ = clipped_surrogate(
                    log_prob_N, pairs.log_prob_N, pairs.advantage_N, clip_range=CLIP_NATS / D, dimensions=D
                )
                (loss * len(pairs) / len(minibatch)).backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        error = reward_B.std() / SAMPLES**0.5
        print(f"iteration {iteration + 1:2d}  redness {reward_B.mean():+.4f} ± {error:.4f}")


if __name__ == "__main__":
    main()
