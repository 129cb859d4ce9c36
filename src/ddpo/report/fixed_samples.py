"""What training did to the fixed samples: paired changes, before against after."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ddpo.report.intervals import Mean, bootstrap
from ddpo.runs.record import EvaluationRecord, Floats, RunRecord


@dataclass(frozen=True)
class Change:
    """A reward on the same prompts and seeds at two moments."""

    reward: str
    before: float
    """Mean over the samples."""
    after: float
    difference: Mean
    """The paired difference, after minus before, with standard error and 95 % interval."""


def change(run: RunRecord, reward: str | None) -> Change | None:
    """Return what became of one reward from the first to the last evaluation; None where it was not measured twice."""
    if reward is None or len(run.evaluations) < 2:
        return None
    before_B, after_B = run.evaluations[0].scores(reward), run.evaluations[-1].scores(reward)
    if before_B is None or after_B is None:
        return None
    difference = _mean(after_B - before_B, run.evaluations[-1])
    return Change(reward, float(before_B.mean()), float(after_B.mean()), difference)


def other_changes(run: RunRecord) -> list[Change]:
    """Return what became of the rewards that were only measured, without the trained one turned round."""
    names = run.evaluations[-1].rewards if run.evaluations else []
    changes = (change(run, name) for name in names if name != run.trained_reward and not _mirrors(run, name))
    return [found for found in changes if found is not None]


def _mirrors(run: RunRecord, reward: str) -> bool:
    """Return whether a reward is the trained one turned round, as incompressibility is compressibility.

    Its scores then lie on one falling line over the trained reward's at every evaluation.
    """
    pairs = [(e.scores(run.trained_reward or ""), e.scores(reward)) for e in run.evaluations]
    known = [pair for pair in pairs if pair[0] is not None and pair[1] is not None]
    if not known:
        return False
    trained, other = (np.concatenate(values) for values in zip(*known, strict=True))
    if len(trained) < 3 or np.ptp(trained) == 0 or np.ptp(other) == 0:
        return False
    return float(np.corrcoef(trained, other)[0, 1]) < -0.9999


def measured(evaluation: EvaluationRecord, reward: str) -> Mean | None:
    """Return the mean of one reward over the samples with standard error and 95 % interval, or None without it."""
    score_B = evaluation.scores(reward)
    return None if score_B is None else _mean(score_B, evaluation)


def _mean(value_B: Floats, evaluation: EvaluationRecord) -> Mean:
    """Return the mean over samples; those of one prompt are not independent of each other, where there are several."""
    prompts = [sample.prompt for sample in evaluation.samples]
    return bootstrap(value_B, clusters=prompts if len(set(prompts)) > 1 else None, resamples=2000)
