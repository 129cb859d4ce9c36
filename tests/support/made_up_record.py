"""Runs as the report reads them, made up in memory, and what is found in them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ddpo.report.signs import Finding, findings
from ddpo.runs.record import EvaluationRecord, FixedSample, RunRecord

PROMPTS = [f"prompt {index}" for index in range(40)]
NOISE = np.random.default_rng(0).normal(size=(2, 40))
BEFORE, AFTER = -2 + 0.1 * NOISE[0], -1 + 0.1 * NOISE[1]
"""Scores of 40 fixed samples before and after a training that succeeded."""


def evaluation(
    iteration: int, *, diversity: float = 0.3, kl_to_base: float | None = None, **rewards: Any
) -> EvaluationRecord:
    """Return the fixed samples at one moment, with the scores `(40,)` of each reward."""
    samples = [
        FixedSample(prompt, str(index), {name: float(scores[index]) for name, scores in rewards.items()})
        for index, prompt in enumerate(PROMPTS)
    ]
    return EvaluationRecord(iteration, samples, "size", {"size": "negative size (kB)"}, None, diversity, kl_to_base)


def record(*evaluations: EvaluationRecord, config: dict[str, Any] | None = None, **series: Any) -> RunRecord:
    """Return a run with these metrics, a value an iteration; `reward__std` stands for `reward/std`."""
    number = len(next(iter(series.values()))) if series else 0
    metrics = [
        {"iteration": index + 1, "reward_queries": 64.0 * (index + 1)}
        | {key.replace("__", "/"): values[index] for key, values in series.items()}
        for index in range(number)
    ]
    return RunRecord("run", config or {"iterations": number}, "", metrics, list(evaluations))


def signs(run: RunRecord) -> dict[str, Finding]:
    """Return the signs by their subject."""
    return {finding.subject: finding for finding in findings(run) if finding.level == "sign"}


def subjects(run: RunRecord, level: str) -> list[str]:
    """Return the subjects of one level."""
    return [finding.subject for finding in findings(run) if finding.level == level]
