"""The noise schedule of a diffusers pipeline, read from its scheduler's config.

The betas and the spacing of the timesteps are diffusers' own, so that a run's grid is that of the pipeline the model
came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import torch
from torch import Tensor

from ddpo.core.forward_process import PredictionType, VariancePreserving
from ddpo.runtime.errors import ModelError


def read_schedule(config: Mapping[str, Any]) -> VariancePreserving:
    """Return the noise schedule of any DDIM/DDPM/PNDM-style scheduler.

    A step at t goes to t - (training timesteps // steps), the stride of diffusers' DDIM; below 0 it reaches
    `alpha_bar = 1` if `set_alpha_to_one`, else alpha_bar of timestep 0, so that the last step's std is above 0.
    `clip_sample` and `thresholding` are switched off: they change the density of a step.

    Raises:
        ModelError: the config is not of that family, or its prediction type or spacing is unknown.
    """
    from diffusers import DDIMScheduler

    prediction_type = config.get("prediction_type", "epsilon")
    if prediction_type not in get_args(PredictionType):
        raise ModelError(
            f"scheduler: prediction_type '{prediction_type}' is not supported; "
            f"ddpo handles {', '.join(get_args(PredictionType))}."
        )
    if "num_train_timesteps" not in config or not {"beta_schedule", "trained_betas"} & set(config):
        raise ModelError(
            f"scheduler: {config.get('_class_name', 'this scheduler')} has no beta schedule; ddpo handles "
            "the DDIM, DDPM and PNDM family."
        )

    def scheduler() -> Any:
        try:
            return DDIMScheduler.from_config(dict(config))
        except (NotImplementedError, ValueError) as error:
            raise ModelError(f"scheduler: its config cannot be read: {error}") from error

    def spacing(steps: int) -> tuple[Tensor, Tensor]:
        made = scheduler()
        try:
            made.set_timesteps(steps)
        except (NotImplementedError, ValueError) as error:
            raise ModelError(f"scheduler: its config cannot be read: {error}") from error
        timestep_T = made.timesteps.to(torch.int64).cpu()
        timestep_T = timestep_T[timestep_T >= 0]  # trailing spacing rounds to one step too many for some counts
        previous_T = timestep_T - len(alpha_bar_S) // steps
        final = torch.as_tensor(made.final_alpha_cumprod).double()
        return timestep_T, torch.where(previous_T >= 0, alpha_bar_S[previous_T.clamp(min=0)], final)

    alpha_bar_S = scheduler().alphas_cumprod.double()
    return VariancePreserving(alpha_bar_S, prediction_type, spacing)
