"""The method: kernels, trajectories, rollout and replay, objectives, advantages. Torch and numpy only."""
