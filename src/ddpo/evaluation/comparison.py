"""The trained model beside its base model: the same prompts and seeds drawn from both, scored and compared in pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ddpo.core.policy import Policy
from ddpo.core.randomness import Stream, derive_seed
from ddpo.core.rollout import even_batch
from ddpo.evaluation.loading import load_policy
from ddpo.evaluation.sampling import draw, sampling_config
from ddpo.prompts import Prompt, PromptSpec, load_prompts
from ddpo.report.intervals import LEVEL, Mean, bootstrap
from ddpo.rewards import RewardSpec, Scorer, load_reward
from ddpo.runtime.processes import Runtime

Array = NDArray[np.float64]
SamplingProgress = Callable[[str, int, int], None]
"""Told which model is being sampled, and how many samples are done out of how many."""


@dataclass(frozen=True)
class Measured:
    """What was measured on one model's samples: P prompts with N seeds each."""

    scores: dict[str, Array]
    """Scores `(P, N)` by the reward's key."""
    diversity_P: Array | None
    """`(P,)`: diversity of each prompt's N samples (`ddpo.media.diversity`); None with one seed a prompt."""


@dataclass(frozen=True)
class Paired:
    """A mean over the samples of the base model, of the trained one, and of what changed from sample to sample."""

    base: Mean
    trained: Mean | None
    difference: Mean | None
    """Trained minus base at the same prompt and seed."""

    def record(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        kinds = {"base": self.base, "trained": self.trained, "difference": self.difference}
        return {kind: mean and _record_of(mean, interval=kind == "difference") for kind, mean in kinds.items()}


@dataclass(frozen=True)
class Comparison:
    """Samples of a model and, when it was trained by a run, of its base model."""

    source: str
    """The run or model."""
    prompts: list[Prompt]
    """P prompts."""
    seed_PN: list[list[int]]
    """Seeds of the N samples of each prompt, the same in both models."""
    labels: dict[str, str]
    """Words with the unit for each reward, by its key."""
    base: Measured
    trained: Measured | None
    """None: `source` is a model, not a run."""
    not_measured: list[str]
    """Why rewards that a run only measures were left out."""

    @property
    def seeds(self) -> int:
        """N, the samples of each prompt."""
        return len(self.seed_PN[0])

    def reward(self, key: str) -> Paired:
        """Return means of a reward over all samples.

        Samples of one prompt are alike, so prompts are what is resampled; with one prompt its samples are.
        """
        clusters = [prompt.text for prompt in self.prompts for _ in range(self.seeds)]
        trained = None if self.trained is None else self.trained.scores[key].ravel()
        return _paired(self.base.scores[key].ravel(), trained, clusters)

    def diversity(self) -> Paired | None:
        """Return means of the diversity within a prompt; None with one seed a prompt."""
        if self.base.diversity_P is None:
            return None
        trained = None if self.trained is None else self.trained.diversity_P
        return _paired(self.base.diversity_P, trained, [prompt.text for prompt in self.prompts])

    def record(self) -> dict[str, Any]:
        """Return everything as plain values for JSON; docs/metrics.md explains it."""
        diverse = self.diversity()
        return {
            "source": self.source,
            "prompts": len(self.prompts),
            "seeds_per_prompt": self.seeds,
            "interval_level": LEVEL,
            "rewards": {key: {"label": label} | self.reward(key).record() for key, label in self.labels.items()},
            "diversity": diverse and diverse.record(),
            "not_measured": self.not_measured,
            "per_prompt": [self._prompt_record(place) for place in range(len(self.prompts))],
            "samples": [
                {"prompt": prompt.text, "seed": seed, "reward": key, **self._values(key, (place, index))}
                for place, prompt in enumerate(self.prompts)
                for index, seed in enumerate(self.seed_PN[place])
                for key in self.labels
            ],
        }

    def _prompt_record(self, place: int) -> dict[str, Any]:
        models = {"base": self.base, "trained": self.trained}
        diverse = {
            name: None if model is None or model.diversity_P is None else float(model.diversity_P[place])
            for name, model in models.items()
        }
        rewards = {key: self._values(key, place) for key in self.labels}
        return {"prompt": self.prompts[place].text, "rewards": rewards, "diversity": diverse}

    def _values(self, key: str, where: int | tuple[int, int]) -> dict[str, float | None]:
        """Return both models' mean score of a prompt, or score of a sample."""
        models = {"base": self.base, "trained": self.trained}
        return {
            name: None if model is None else float(model.scores[key][where].mean()) for name, model in models.items()
        }


def compare(
    source: str,
    *,
    prompts: PromptSpec | None = None,
    rewards: Sequence[RewardSpec] | None = None,
    seeds: int = 4,
    seed: int = 0,
    device: str | None = None,
    progress: SamplingProgress = lambda model, done, total: None,
) -> Comparison:
    """Draw `seeds` samples of every prompt from a run's trained model and from its base model, and score both.

    `source` is a run folder or a model (`embedded`, a folder, a hub id), of which only the model itself is sampled.
    `prompts` and `rewards` are anything that `load_prompts` and `load_reward` take; None: those of the run, for a model
    those it is sampled with by default (`sampling_config`). The seeds come from `seed` and a stream of their own: they
    are neither those trained on nor those of the fixed samples, and no two prompts share one.

    Raises:
        ConfigError, ModelError, PromptError, RunFolderError: the source or the prompts cannot be used.
        RewardError: a reward that was asked for, or that was trained, fails on the prompts. One that the run only
            measures besides is left out (`Comparison.not_measured`).
    """
    config, weights = sampling_config(source, device=device)
    chosen = load_prompts(config.prompts if prompts is None else prompts)
    required = [config.reward] if rewards is None else rewards
    optional = config.evaluation.rewards if rewards is None else []
    scorer = Scorer([load_reward(reward) for reward in required], [load_reward(reward) for reward in optional])
    runtime = Runtime(device=config.device, threads=config.threads)
    places = range(len(chosen.prompts))
    seed_PN = [[derive_seed(seed, Stream.COMPARISON, place, index) for index in range(seeds)] for place in places]

    def measure(policy: Policy, name: str) -> Measured:
        return _measure(
            policy, chosen.prompts, seed_PN, scorer, batch_size=config.batch_size, progress=partial(progress, name)
        )

    untrained = config.model_copy(update={"lora": config.lora.model_copy(update={"rank": None})})
    base, trained = measure(load_policy(untrained, runtime.device), "base model"), None
    if weights is not None:
        trained = measure(load_policy(config, runtime.device, weights), "trained model")
    return Comparison(source, list(chosen.prompts), seed_PN, scorer.labels, base, trained, scorer.not_measured)


def _measure(
    policy: Policy,
    prompts: Sequence[Prompt],
    seed_PN: Sequence[Sequence[int]],
    scorer: Scorer,
    *,
    batch_size: int,
    progress: Callable[[int, int], None],
) -> Measured:
    """Draw and score the samples of every prompt, a batch of the network at a time."""
    number, seeds = len(prompts), len(seed_PN[0])
    sample_S = [(prompt, seed) for prompt, seed_N in zip(prompts, seed_PN, strict=True) for seed in seed_N]
    batch_size = even_batch(len(sample_S), batch_size)
    samples, scores = [], []
    for first in range(0, len(sample_S), batch_size):
        part, part_seeds = zip(*sample_S[first : first + batch_size], strict=True)
        drawn = draw(policy, part, part_seeds, batch_size=batch_size)
        texts, metadata = [prompt.text for prompt in part], [prompt.metadata for prompt in part]
        scores.append(scorer.score(policy.medium, drawn, texts, metadata, first_index=first))
        samples.append(drawn)
        progress(first + len(part), len(sample_S))
    score_S = scorer.combine(scores, [prompt.text for prompt, _ in sample_S])
    scores_PN = {key: values.reshape(number, seeds) for key, values in score_S.items()}
    if seeds == 1:
        return Measured(scores_PN, None)
    drawn_S = torch.cat(samples)
    of_prompt = [drawn_S[start : start + seeds] for start in range(0, len(drawn_S), seeds)]
    return Measured(scores_PN, np.array([policy.medium.diversity(drawn) for drawn in of_prompt], dtype=np.float64))


def _paired(base: Array, trained: Array | None, clusters: Sequence[str]) -> Paired:
    groups = clusters if len(set(clusters)) > 1 else None
    if trained is None:
        return Paired(bootstrap(base, clusters=groups), None, None)
    means = (bootstrap(values, clusters=groups) for values in (base, trained, trained - base))
    return Paired(*means)


def _record_of(mean: Mean, *, interval: bool) -> dict[str, float]:
    values = {"mean": mean.mean, "standard_error": mean.error}
    return values | ({"low": mean.low, "high": mean.high} if interval else {})
