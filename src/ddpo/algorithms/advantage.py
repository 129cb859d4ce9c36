"""How rewards become advantages (paper F.3): a section of the configuration, by name or by a function of the user's."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ddpo.runtime.errors import ConfigError, nearest
from ddpo.runtime.plugins import describe, is_plugin, load_object

if TYPE_CHECKING:
    from ddpo.core.experience import Array, State

ADVANTAGES = ("running", "batch", "group", "leave-one-out")


class Advantage(BaseModel):
    """Normalisation of rewards for policy gradients."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    name: str = "running"
    """`running`: per-prompt running mean and std; `batch`; `group` and `leave-one-out` need samples_per_prompt > 1; or
    `path/to/file.py:function` of (prompts, rewards (S,), state) that returns advantages (S,) and the state after."""
    buffer_size: int = Field(default=32, ge=2)
    """Rewards kept a prompt (running)."""
    min_count: int = Field(default=16, ge=1)
    """Rewards a prompt needs before its own statistics count; the batch's are used till then (running)."""
    clip: float | None = Field(default=5.0, gt=0)
    """Advantages are clipped to +- this; null: not at all, as in the paper's text."""

    @model_validator(mode="after")
    def _usable(self) -> Advantage:
        if self.name not in ADVANTAGES and not is_plugin(self.name):
            raise ValueError(
                f"name '{self.name}' is unknown.{nearest(self.name, ADVANTAGES)} Known: {', '.join(ADVANTAGES)}, or "
                "your own as path/to/file.py:function"
            )
        if self.min_count > self.buffer_size:
            raise ValueError(
                f"min_count {self.min_count} is never reached with a buffer_size of {self.buffer_size}; "
                "make the buffer at least as large"
            )
        return self

    @property
    def compares_groups(self) -> bool:
        """Whether several samples of one prompt are needed."""
        return self.name in ("group", "leave-one-out")

    def check(self) -> None:
        """Raise ConfigError when a function of the user's own cannot be loaded."""
        if is_plugin(self.name):
            load_object(self.name, "advantage", ConfigError)

    def __call__(self, prompts: Sequence[Hashable], reward_S: Array, state: State) -> tuple[Array, State]:
        """Return the advantages `(S,)` of an iteration's samples, clipped, and the state after it (F.3)."""
        advantage_S, state = self._function()(prompts, reward_S, state)
        usable = np.shape(advantage_S) == reward_S.shape and isinstance(state, Mapping)
        if not usable or not np.isfinite(advantage_S).all():
            raise ConfigError(
                f"advantage: '{self.name}' must return {len(reward_S)} finite numbers, one a sample, and the "
                "state as a dict."
            )
        return (advantage_S if self.clip is None else advantage_S.clip(-self.clip, self.clip)), state

    def _function(self) -> Callable[[Sequence[Hashable], Array, State], tuple[Array, State]]:
        from ddpo.core.advantages import batch_advantages, group_advantages, leave_one_out_advantages

        match self.name:
            case "running":
                return self._running
            case "batch":
                return lambda prompts, reward_S, state: (batch_advantages(reward_S), state)
            case "group":
                return lambda prompts, reward_S, state: (group_advantages(prompts, reward_S), state)
            case "leave-one-out":
                return lambda prompts, reward_S, state: (leave_one_out_advantages(prompts, reward_S), state)
        return self._own

    def _running(self, prompts: Sequence[Hashable], reward_S: Array, state: State) -> tuple[Array, State]:
        from ddpo.core.advantages import RunningStatistics

        statistics = RunningStatistics(self.buffer_size, self.min_count, state.get("rewards", {}))
        statistics, advantage_S = statistics.update(prompts, reward_S)
        return advantage_S, {**state, "rewards": dict(statistics.history)}

    def _own(self, prompts: Sequence[Hashable], reward_S: Array, state: State) -> tuple[Array, Any]:
        function = load_object(self.name, "advantage", ConfigError)
        try:
            advantage_S, state = function(list(prompts), reward_S.copy(), dict(state))
            return np.asarray(advantage_S, dtype=np.float64), state
        except Exception as error:
            raise ConfigError(f"advantage: '{self.name}' raised {describe(error)}") from error
