"""A sampler of your own: a function that returns a table of Gaussian steps.

    ddpo train "sampler={name: examples/own_kernel.py:window, steps: 10, options: {first: 2, last: 5}}" iterations=12

Each step is `x' ~ N(x_T * x + prediction_T * prediction, std_T^2 I)`. Those with std 0 are deterministic: they have no
likelihood and are not trained, which saves their part of the update.
"""

import torch

from ddpo.core.forward_process import VariancePreserving
from ddpo.core.kernel import Kernel, ddim, ddim_mean


def window(schedule: VariancePreserving, steps: int, first: int, last: int) -> Kernel:
    """Return DDIM with noise in the steps `first` to `last` alone, counted from 0, the noisiest."""
    noisy, grid = ddim(schedule, steps), schedule.grid(steps)
    a_T, a_next_T = grid.alpha_bar_T, grid.alpha_bar_next_T
    one, zero = torch.ones_like(a_T), torch.zeros_like(a_T)
    plain_x_T = ddim_mean(one, zero, a_T, a_next_T, 0.0, schedule.prediction_type)
    plain_prediction_T = ddim_mean(zero, one, a_T, a_next_T, 0.0, schedule.prediction_type)
    step_T = torch.arange(steps)
    inside_T = (step_T >= first) & (step_T <= last)
    return Kernel(
        noisy.time_T,
        torch.where(inside_T, noisy.x_T, plain_x_T),
        torch.where(inside_T, noisy.prediction_T, plain_prediction_T),
        torch.where(inside_T, noisy.std_T, zero),
    )
