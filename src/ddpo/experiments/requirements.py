"""Looks, before anything is run, for rewards and prompts that the runs of an experiment need and that are not there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from ddpo.experiments.definition import Experiment
from ddpo.experiments.plan import Run
from ddpo.prompts import load_prompts
from ddpo.rewards import load_reward
from ddpo.runtime.errors import ExperimentError, PromptError, RewardError


def check_rewards_and_prompts(experiment: Experiment, runs: Sequence[Run]) -> None:
    """Load every reward and prompt source that training and evaluating the runs will ask for.

    Raises:
        ExperimentError: one cannot be loaded; the sentence names the recipe.
    """
    for run in {(run.recipe, run.variant): run for run in runs}.values():
        try:
            for reward in _rewards(run):
                load_reward(reward)
            for prompts in _prompts(run):
                load_prompts(prompts)
        except (RewardError, PromptError) as error:
            raise ExperimentError(
                f"Experiment '{experiment.name}', recipe '{run.recipe_name}': {error} Nothing was run."
            ) from None


def _rewards(run: Run) -> Iterator[Any]:
    yield run.config.reward
    yield from run.config.evaluation.rewards
    for prompt_set in run.prompt_sets:
        yield from map(_parsed, prompt_set.rewards)


def _prompts(run: Run) -> Iterator[Any]:
    yield run.config.prompts
    yield from (_parsed(prompt_set.prompts) for prompt_set in run.prompt_sets)


def _parsed(text: str) -> Any:
    """Return a name as it is and a mapping or list as what it holds, as `ddpo evaluate` does."""
    if not text.startswith(("{", "[")):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise PromptError(f"'{text}' is not of the form {{name: ..., option: ...}}.") from None
