"""The policy that a configuration describes: a pipeline of a known family, or the user's own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ddpo.config import TrainConfig
from ddpo.config.tree import FLOW_SAMPLERS, SamplerConfig
from ddpo.core.flow import flow_cps, flow_dance, flow_ddim, flow_sde
from ddpo.core.kernel import Kernel, KernelFactory, ancestral, ddim
from ddpo.core.policy import Policy
from ddpo.core.randomness import Stream, derive_seed
from ddpo.policies.loading import PIPELINE
from ddpo.policies.parameters import FILE, load_parameters
from ddpo.policies.settings import PolicySettings
from ddpo.policies.stable_diffusion import StableDiffusionPolicy
from ddpo.runtime.errors import ConfigError, DDPOError, ModelError
from ddpo.runtime.plugins import describe, load_object

PolicySpec = Policy | Callable[..., Any] | str | Mapping[str, Any]
"""Anything that stands for a policy in Python: one, a class or function that makes one, or as in a configuration."""
log = logging.getLogger(__name__)
_FLOW_KERNELS = dict(zip(FLOW_SAMPLERS, (flow_sde, flow_ddim, flow_dance, flow_cps), strict=True))
_REQUIRED = (
    *("kernel", "forward_process", "medium", "sample_shape", "device", "trains_guidance"),
    *("encode", "predict", "decode", "parameters", "base_model", "save"),
)


def load_policy(
    config: TrainConfig,
    device: torch.device,
    weights: Path | None = None,
    *,
    policy: PolicySpec | None = None,
    pipeline: Any = None,
) -> Policy:
    """Return the policy of a configuration; `weights` is the `model/` folder of a run, put on top of the model.

    With `weights` the policy is for sampling: nothing new is added to be trained. They may be a checkpoint too.
    `policy` or a diffusers `pipeline` take the place of what the configuration names.

    Raises:
        ModelError: the model cannot be loaded or trained.
        CheckpointError: the checkpoint is of another model.
    """
    if weights is not None and (weights / FILE).is_file():
        whole = load_policy(config, device, policy=policy, pipeline=pipeline)
        load_parameters(list(whole.parameters()), weights)
        return whole
    settings = policy_settings(config, device, sampling_only=weights is not None)
    spec = config.policy if policy is None else policy
    if spec is not None:
        return _own(spec, settings, weights)
    if pipeline is not None:
        return from_pipeline(pipeline, settings)
    return StableDiffusionPolicy.from_source(config.model, settings, weights)


def policy_settings(config: TrainConfig, device: torch.device, *, sampling_only: bool = False) -> PolicySettings:
    """Return what a configuration says of how its model is sampled and trained."""
    assert config.precision != "auto", "the run resolves it"
    return PolicySettings(
        kernel=kernel_factory(config.sampler),
        guidance_scale=config.guidance_scale,
        guidance_interval=config.guidance_interval,
        cfg_training=config.cfg_training,
        precision=config.precision,
        lora=config.lora.model_copy(update={"rank": None}) if sampling_only else config.lora,
        seed=derive_seed(config.seed, Stream.WEIGHTS),
        gradient_checkpointing=config.gradient_checkpointing,
        compile=config.compile,
        keep_base=(config.evaluation.kl_to_base or config.algorithm.needs_base) and not sampling_only,
        device=device,
    )


def kernel_factory(sampler: SamplerConfig) -> KernelFactory:
    """Return the function that makes a configuration's kernel on a model's noise schedule."""
    if sampler.name == "ddim":
        return partial(ddim, steps=sampler.steps, eta=sampler.eta)
    if sampler.name == "ancestral":
        return partial(ancestral, steps=sampler.steps)
    if sampler.name in FLOW_SAMPLERS:
        make = partial(_FLOW_KERNELS[sampler.name], steps=sampler.steps, window=sampler.window)
        return make if sampler.level is None else partial(make, level=sampler.level)
    function = load_object(sampler.name, "sampler.name:", ConfigError)

    def own(schedule: Any) -> Kernel:
        kernel = _called(f"sampler.name: '{sampler.name}'", function, schedule, steps=sampler.steps, **sampler.options)
        if not isinstance(kernel, Kernel):
            raise ConfigError(f"sampler.name: '{sampler.name}' returned {type(kernel).__name__}, not a Kernel.")
        return kernel

    return own


def from_pipeline(pipeline: Any, settings: PolicySettings) -> Policy:
    """Return the policy of a loaded diffusers pipeline.

    Raises:
        ModelError: it is of a family that `ddpo` does not train.
    """
    if type(pipeline).__name__ != PIPELINE:
        raise ModelError(
            f"model: a {type(pipeline).__name__} object; ddpo trains {PIPELINE} (SD 1.x and 2.x), or a policy of your "
            "own (docs/extending.md)."
        )
    return StableDiffusionPolicy(pipeline, settings)


def _own(spec: PolicySpec, settings: PolicySettings, weights: Path | None) -> Policy:
    """Return the user's policy, checked, with trained weights if there are any."""
    options: dict[str, Any] = {}
    name, made = "policy", spec
    if isinstance(made, Mapping):
        options = dict(made)
        made = str(options.pop("name", ""))
    if isinstance(made, str):
        name, made = f"policy '{made}'", load_object(made, "policy", ModelError)
    if not hasattr(made, "predict") or isinstance(made, type):
        if not callable(made):
            raise ModelError(f"{name} is a {type(made).__name__}, not a policy, or a class or function that makes one.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            made = _called(name, made, settings, **options)
    ignored = {
        "lora.rank": settings.lora.rank,
        "compile": settings.compile,
        "precision": settings.precision not in ("fp32", "tf32"),
    }
    ignored["gradient_checkpointing"] = settings.gradient_checkpointing
    if names := ", ".join(key for key, value in ignored.items() if value):
        log.warning("%s: the settings of %s are passed on to it; whether it heeds them is up to it.", name, names)
    lacking = [attribute for attribute in _REQUIRED if not hasattr(made, attribute)]
    if lacking:
        raise ModelError(f"{name} lacks {', '.join(lacking)}; derive it from ddpo.policies.NetworkPolicy.")
    policy: Any = made
    if weights is not None:
        if not hasattr(policy, "load"):
            raise ModelError(f"{name} has no method load(folder), which puts trained weights back.")
        policy.load(weights)
    return policy  # type: ignore[no-any-return]


def _called(name: str, function: Any, *arguments: Any, **options: Any) -> Any:
    """Call the user's code; what goes wrong in it is one sentence."""
    try:
        return function(*arguments, **options)
    except DDPOError:
        raise
    except Exception as error:
        raise ModelError(f"{name} raised {describe(error)}") from error
