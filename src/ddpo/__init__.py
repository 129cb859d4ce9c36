"""Fine-tune diffusion models with reinforcement learning (Black et al., 2023)."""
