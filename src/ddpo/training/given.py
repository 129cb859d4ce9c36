"""What people have in their hands in Python: a pipeline, a function, a list; told apart from settings by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddpo.algorithms import ALGORITHMS, Algorithm
from ddpo.config import TrainConfig, load_config, with_settings
from ddpo.evaluation.loading import PolicySpec
from ddpo.prompts import Prompt, PromptSource, PromptSpec, load_prompts
from ddpo.rewards import RewardSpec, load_reward, repeatable_spec, without_token
from ddpo.runtime.errors import ConfigError
from ddpo.runtime.files import is_file
from ddpo.runtime.plugins import anchored, is_plugin, reference
from ddpo.training.callbacks import Callback, load_callback

Callbacks = Callback | str | Mapping[str, Any] | Sequence[Callback | type | str | Mapping[str, Any]]
"""Callbacks in Python: functions, classes, or as in a configuration; one or several."""
_UNNAMED = "a Python object"
"""How `reference` begins where something cannot be named in a configuration."""


@dataclass(frozen=True)
class Given:
    """The objects of a run that its configuration cannot hold."""

    policy: PolicySpec | None = None
    pipeline: Any = None
    """A loaded diffusers pipeline."""
    prompts: PromptSource | None = None
    reward: RewardSpec | None = None
    callbacks: Sequence[Callback] = ()

    def all_callbacks(self, config: TrainConfig) -> list[tuple[str, Callback]]:
        """Return the user's callbacks, those of the configuration first, each with a name for messages."""
        named = [(str(spec if isinstance(spec, str) else spec.get("name")), spec) for spec in config.callbacks]
        found = [(name, load_callback(spec)) for name, spec in named]
        return [*found, *((reference(callback), callback) for callback in self.callbacks)]

    def check(self, config: TrainConfig) -> None:
        """Raise ConfigError when a run that goes on lacks an object that it began with."""
        values = {"reward": config.reward, "prompts": config.prompts, "policy": config.policy}
        values["model"] = config.model.name
        present = {
            "reward": self.reward,
            "prompts": self.prompts,
            "policy": self.policy,
            "model": self.pipeline,
        }
        for key, value in values.items():
            if isinstance(value, str) and value.startswith(_UNNAMED) and present[key] is None:
                raise ConfigError(
                    f"{key}: the run began with {value}; give it again in Python, ddpo.resume(RUN, {key}=...)."
                )


def sort_out(
    config: TrainConfig | str | Path | None,
    settings: Mapping[str, Any],
    *,
    model: Any = None,
    policy: PolicySpec | None = None,
    prompts: PromptSpec | None = None,
    reward: RewardSpec | None = None,
    algorithm: Algorithm | type[Algorithm] | str | Mapping[str, Any] | None = None,
    callbacks: Callbacks = (),
) -> tuple[TrainConfig, Given]:
    """Return the configuration that holds all that has a name, and the objects that have none.

    Raises:
        ConfigError, RewardError, PromptError: something that was given cannot be used.
    """
    named = dict(settings)
    if algorithm is not None:
        named["algorithm"] = algorithm.model_validate({}) if isinstance(algorithm, type) else algorithm
    if _is_plain(prompts):
        named["prompts"], prompts = (str(prompts) if isinstance(prompts, Path) else prompts), None
    for key, value in (("model", model), ("policy", policy), ("reward", reward)):
        if _has_name(value):
            named[key] = str(value) if isinstance(value, Path) else value
    if policy is not None and model is not None:
        raise ConfigError("policy: it takes the place of the model; give one of the two.")
    spoken, objects = _sorted_callbacks(callbacks)
    if spoken:
        named["callbacks"] = [*(config.callbacks if isinstance(config, TrainConfig) else ()), *spoken]
    given = Given(
        policy=None if "policy" in named else policy,
        pipeline=None if "model" in named else model,
        prompts=None if prompts is None else load_prompts(prompts),
        reward=None if "reward" in named else reward,
        callbacks=objects,
    )
    if isinstance(config, TrainConfig):
        return (with_settings(config, named) if named else config), given
    if given.reward is not None:  # the run is called as the reward, as on the command line
        key = load_reward(given.reward).key
        named.setdefault("name", re.sub(r"[^\w.-]+", "-", key).strip("-.") or "reward")
    defaults = None
    if config is None and (given.policy is not None or given.pipeline is not None):
        defaults = getattr(given.policy, "defaults", {})
    return load_config(config, settings=named, defaults=defaults), given


def _has_name(spec: object) -> bool:
    """Return whether a configuration can hold what was given; not a mapping with a function in it."""
    return isinstance(spec, str | Path) or (isinstance(spec, Mapping) and _is_value(spec))


def _sorted_callbacks(callbacks: Callbacks) -> tuple[list[str | Mapping[str, Any]], list[Callback]]:
    """Return the callbacks that a configuration can name, and the others; a class is called to make one."""
    given = [callbacks] if isinstance(callbacks, str | Mapping) or callable(callbacks) else list(callbacks)
    spoken = [spec for spec in given if isinstance(spec, str | Mapping)]
    objects = [spec() if isinstance(spec, type) else spec for spec in given if not isinstance(spec, str | Mapping)]
    for callback in objects:
        if not callable(callback):
            raise ConfigError(f"callbacks: {callback!r} is not a function of a Moment, nor a class whose objects are.")
    return spoken, objects


def _is_plain(prompts: PromptSpec | None) -> bool:
    """Return whether prompts can stand in a configuration as they are."""
    if isinstance(prompts, list | tuple):
        return all(isinstance(prompt, str) or (isinstance(prompt, Mapping) and _is_value(prompt)) for prompt in prompts)
    return isinstance(prompts, str | Path) or (isinstance(prompts, Mapping) and _is_value(prompts))


def repeatable(config: TrainConfig, given: Given) -> TrainConfig:
    """Return the configuration that repeats the run from any folder; an object is named by where it is defined.

    Tokens of reward servers stay out of it: run folders are shared.
    """
    measured = [without_token(repeatable_spec(spec)) for spec in config.evaluation.rewards]
    named: dict[str, object] = {
        "output": None,
        "model": config.model.anchored(),
        "reward": without_token(repeatable_spec(config.reward if given.reward is None else given.reward)),
        "evaluation": config.evaluation.model_copy(update={"rewards": measured}),
        "policy": _anchored(config.policy) if given.policy is None else reference(given.policy),
        "callbacks": [_anchored(spec) for spec in config.callbacks],
    }
    for section in ("advantage", "sampler"):
        value = getattr(config, section)
        named[section] = value.model_copy(update={"name": anchored(value.name)})
    algorithm = config.algorithm
    known = is_plugin(algorithm.name) or type(algorithm) in ALGORITHMS.values()
    name = anchored(algorithm.name) if known else reference(type(algorithm))
    named["algorithm"] = algorithm.model_copy(update={"name": name})
    if given.pipeline is not None:
        name = getattr(getattr(given.pipeline, "config", None), "_name_or_path", None) or reference(given.pipeline)
        named["model"] = config.model.model_copy(update={"name": name}).anchored()
    if given.prompts is not None:
        named["prompts"] = _recorded(given.prompts)
    elif isinstance(config.prompts, str):
        path = Path(config.prompts)
        named["prompts"] = str(path.resolve()) if is_file(path) else anchored(config.prompts)
    elif isinstance(config.prompts, Mapping):
        named["prompts"] = _anchored(config.prompts)
    return config.model_copy(update=named)


def _anchored(spec: Any) -> Any:
    if isinstance(spec, str):
        return anchored(spec)
    return {**spec, "name": anchored(str(spec.get("name")))} if isinstance(spec, Mapping) else spec


def _recorded(source: PromptSource) -> object:
    """Return prompts as a configuration holds them; not those with tensors in their metadata."""
    entries = [{"prompt": prompt.text, **prompt.metadata} for prompt in source.prompts if isinstance(prompt, Prompt)]
    plain = all(_is_value(value) for entry in entries for value in entry.values())
    if is_plugin(source.name):
        return anchored(source.name)
    if source.name == "none":
        return source.name
    return entries if plain else f"{_UNNAMED}, {source.name}"


def _is_value(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_value, value))
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_value(inner) for key, inner in value.items())
    return value is None or isinstance(value, str | int | float)
