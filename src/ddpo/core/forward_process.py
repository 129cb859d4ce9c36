"""The noise schedule and the time grid of a denoising run, read from a diffusers scheduler's config.

`alpha_bar_t` is the share of signal variance left at timestep t: `x_t = sqrt(alpha_bar_t) x_0 +
sqrt(1 - alpha_bar_t) eps` (paper eq. 1 and section C.1). The betas and the spacing of the timesteps are
diffusers' own, so that a grid here is the grid of the pipeline the model came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ddpo.runtime.errors import ModelError

PredictionType = Literal["epsilon", "v_prediction", "sample"]


@dataclass(frozen=True)
class TimeGrid:
    """The T denoising steps of a run, from the noisiest to the last."""

    timestep_T: Tensor
    """`(T,)` int64: the training timestep given to the network."""
    alpha_bar_T: Tensor
    """`(T,)` float64: alpha_bar before each step."""
    alpha_bar_next_T: Tensor
    """`(T,)` float64: alpha_bar after each step."""

    def __len__(self) -> int:
        return self.timestep_T.shape[0]


@dataclass(frozen=True)
class NoiseSchedule:
    """A discrete variance-preserving schedule with what the network predicts on it."""

    config: Mapping[str, Any]
    """The configuration of the diffusers scheduler (DDIM, DDPM, PNDM and their like)."""
    prediction_type: PredictionType

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> NoiseSchedule:
        """Read the schedule of any DDIM/DDPM/PNDM-style scheduler.

        `clip_sample` and `thresholding` are switched off: they change the density of a step.

        Raises:
            ModelError: the config is not of that family, or its prediction type is unknown.
        """
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
        return cls(config=dict(config), prediction_type=prediction_type)

    @property
    def training_timesteps(self) -> int:
        """Number of timesteps the model was trained with."""
        return int(self.config["num_train_timesteps"])

    @cached_property
    def alpha_bar_S(self) -> Tensor:
        """`(S,)` float64: alpha_bar of each of the S training timesteps."""
        from diffusers import DDIMScheduler

        alpha_bar_S: Tensor = DDIMScheduler.from_config(dict(self.config)).alphas_cumprod
        return alpha_bar_S.double()

    def noised(self, clean: Tensor, noise: Tensor, timestep_B: Tensor) -> Tensor:
        """Return x_t = sqrt(a) x_0 + sqrt(1 - a) eps `(B, ...)` at training timesteps `(B,)` (q of eq. 1)."""
        signal, scale = self._signal_and_noise(clean, timestep_B)
        return signal * clean + scale * noise

    def target(self, clean: Tensor, noise: Tensor, timestep_B: Tensor) -> Tensor:
        """Return what the network is to predict at `noised(...)`: eps, v = sqrt(a) eps - sqrt(1 - a) x_0, or x_0."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return clean
        signal, scale = self._signal_and_noise(clean, timestep_B)
        return signal * noise - scale * clean

    def _signal_and_noise(self, like: Tensor, timestep_B: Tensor) -> tuple[Tensor, Tensor]:
        a = self.alpha_bar_S.to(like.device)[timestep_B].reshape(-1, *[1] * (like.ndim - 1))
        return a.sqrt().to(like.dtype), (1 - a).sqrt().to(like.dtype)

    def grid(self, steps: int) -> TimeGrid:
        """Return the grid of `steps` denoising steps, spaced as the config says.

        A step at t goes to t - (training timesteps // steps), the stride of diffusers' DDIM; below 0 it
        reaches `alpha_bar = 1` if `set_alpha_to_one`, else alpha_bar of timestep 0 (REFERENCE: sigma of
        the last step is then above 0).

        Raises:
            ModelError: more steps than training timesteps, an unknown spacing or beta schedule, or noise prediction
                where alpha_bar is 0.
        """
        from diffusers import DDIMScheduler

        if not 1 <= steps <= self.training_timesteps:
            raise ModelError(
                f"sampler.steps: {steps} is not between 1 and the model's {self.training_timesteps} timesteps."
            )
        try:
            scheduler = DDIMScheduler.from_config(dict(self.config))
            scheduler.set_timesteps(steps)
        except (NotImplementedError, ValueError) as error:
            raise ModelError(f"scheduler: its config cannot be read: {error}") from error
        timestep_T = scheduler.timesteps.to(torch.int64).cpu()
        timestep_T = timestep_T[timestep_T >= 0]  # trailing spacing rounds to one step too many for some counts
        if int(timestep_T.max()) >= self.training_timesteps:
            # leading spacing with an offset overshoots when steps == training timesteps
            raise ModelError(
                f"sampler.steps: with {steps} steps the grid reaches timestep {int(timestep_T.max())}, past the "
                f"model's {self.training_timesteps}; use fewer steps."
            )
        alpha_bar = scheduler.alphas_cumprod.double()
        previous_T = timestep_T - self.training_timesteps // steps
        alpha_bar_next_T = torch.where(
            previous_T >= 0,
            alpha_bar[previous_T.clamp(min=0)],
            torch.as_tensor(scheduler.final_alpha_cumprod).double(),
        )
        if self.prediction_type == "epsilon" and float(alpha_bar[timestep_T].min()) <= 0:
            raise ModelError(
                "scheduler: at zero terminal SNR (rescale_betas_zero_snr) the first state holds no signal, so a noise "
                "prediction says nothing about the sample; it needs prediction_type v_prediction or sample."
            )
        return TimeGrid(timestep_T, alpha_bar[timestep_T], alpha_bar_next_T)
