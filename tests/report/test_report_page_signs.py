"""What the report says to be careful about: each sign on a run that has it, and none on one that has not."""

from __future__ import annotations

import numpy as np
import pytest
from made_up_record import AFTER, BEFORE, NOISE, evaluation, record, signs, subjects

from ddpo.report.curve import MINUS
from ddpo.report.fixed_samples import change
from ddpo.report.signs import findings
from ddpo.runs.record import EvaluationRecord, FixedSample, RunRecord


def test_a_rising_reward_alone_is_no_sign():
    run = record(
        evaluation(0, size=BEFORE), evaluation(8, size=AFTER), reward__std=[0.4, 0.3], clip_fraction=[0.1, 0.2]
    )
    assert signs(run) == {}
    assert "Reward of the fixed samples" in subjects(run, "clear")
    assert "Other rewards on the fixed samples" in subjects(run, "unknown")
    assert "Divergence from the base model" in subjects(run, "unknown")


def test_another_reward_that_falls_is_overoptimisation():
    known, forgotten = np.ones(40), np.arange(40) % 2
    run = record(evaluation(0, size=BEFORE, judge=known), evaluation(8, size=AFTER, judge=forgotten))
    # 20 of 40 differences are -1: mean -0.5, standard error 0.5 sqrt(40/39) / sqrt(40) = 0.0801
    assert f"judge fell from 1.00 to 0.50 ({MINUS}0.500 ± 0.080)" in signs(run)["judge fell"].text
    assert "overoptimisation" in signs(run)["judge fell"].text


def test_noise_in_another_reward_is_no_sign():
    known, one_less = np.ones(40), np.arange(40) != 3
    run = record(evaluation(0, size=BEFORE, judge=known), evaluation(8, size=AFTER, judge=one_less))
    assert signs(run) == {}
    assert "judge" in subjects(run, "clear")


def test_the_trained_reward_turned_round_is_no_other_reward():
    run = record(evaluation(0, size=BEFORE, weight=-BEFORE), evaluation(8, size=AFTER, weight=-AFTER))
    assert signs(run) == {}
    assert any("opposite sign" in finding.text for finding in findings(run))


@pytest.mark.parametrize(("late", "seen"), [(0.23, True), (0.25, False)])  # -23 % and -17 %
def test_falling_diversity(late, seen):
    run = record(evaluation(0, size=BEFORE, diversity=0.3), evaluation(8, size=AFTER, diversity=late))
    assert ("Samples become alike" in signs(run)) is seen


@pytest.mark.parametrize(("nats", "seen"), [(19.0, False), (22.1, True)])
def test_a_large_divergence_is_compared_with_the_best_of_n(nats, seen):
    run = record(evaluation(0, size=BEFORE, kl_to_base=0.0), evaluation(8, size=AFTER, kl_to_base=nats))
    assert ("Far from the base model" in signs(run)) is seen
    if seen:  # log n - (n - 1) / n = 22.1 nats at n = exp(23.1) = 1.08e10
        assert "22.1 nats" in signs(run)["Far from the base model"].text
        assert "best of about 10¹⁰" in signs(run)["Far from the base model"].text


def test_flat_and_falling_rewards():
    flat = record(evaluation(0, size=BEFORE), evaluation(8, size=BEFORE + 0.05 * NOISE[1] - 0.05 * NOISE[1].mean()))
    assert "includes 0" in signs(flat)["Flat reward"].text
    assert "The reward fell" in signs(record(evaluation(0, size=AFTER), evaluation(8, size=BEFORE)))


def test_drift_needs_a_flat_reward():
    growing = [0.01, 0.01, 0.02, 0.02, 0.05, 0.05]
    flat = record(evaluation(0, size=BEFORE), evaluation(8, size=BEFORE), kl__step=growing)
    assert "from 0.01 to 0.05 nats" in signs(flat)["Drift without learning"].text
    assert "Drift without learning" not in signs(
        record(evaluation(0, size=BEFORE), evaluation(8, size=AFTER), kl__step=growing)
    )


@pytest.mark.parametrize(
    ("subject", "key", "bad", "good", "config"),
    [
        ("The rewards hardly differ", "reward__std", [0.4] * 9 + [0.01], [0.4] * 9 + [0.1], {}),
        ("Updates hit the clip", "clip_fraction", [0.1] * 9 + [0.9], [0.9] * 9 + [0.5], {}),
        (
            "The replay is barely exact enough", "ratio__max_error_at_start", [1e-6, 7e-6, 1e-6], [1e-6, 3e-6, 1e-6],
            {"algorithm": {"clip_range": 1e-4}},
        ),
        (
            "Few samples carry the weight", "weight__effective_samples", [100.0] * 9 + [2.0], [100.0] * 10,
            {"samples_per_iteration": 128},
        ),
        (
            "Updates are left out", "updates_skipped", [1.0, 0.0, 1.0], [1.0] + [0.0] * 9,
            {"updates_per_iteration": 4, "inner_epochs": 1},
        ),
    ],
)  # fmt: skip
def test_signs_of_a_training_that_does_not_learn(subject, key, bad, good, config):
    assert subject in signs(record(config=config, **{key: bad}))
    assert signs(record(config=config, **{key: good})) == {}


@pytest.mark.parametrize(
    ("algorithm", "advice"),
    [
        ({"name": "rwr", "beta": 0.2}, "A smaller algorithm.beta"),
        ({"name": "rwr-sparse", "percentile": 0.9}, "A smaller algorithm.percentile"),
    ],
)
def test_few_samples_are_answered_with_a_setting_that_the_algorithm_has(algorithm, advice):
    config = {"samples_per_iteration": 128, "algorithm": algorithm}
    found = signs(record(config=config, weight__effective_samples=[100.0] * 9 + [2.0]))
    assert advice in found["Few samples carry the weight"].advice


def test_without_anything_to_look_at_nothing_is_claimed():
    assert signs(record()) == {}
    assert subjects(record(), "clear") == []


def test_several_samples_of_a_prompt_are_not_independent():
    samples = [FixedSample("cat" if index < 20 else "dog", str(index), {"size": 0.0}) for index in range(40)]
    later = [FixedSample(s.prompt, s.seed, {"size": 1.0 if s.prompt == "cat" else 0.0}) for s in samples]
    labels = {"size": "size"}
    evaluations = [EvaluationRecord(i, s, "size", labels, None, None, None) for i, s in ((0, samples), (8, later))]
    difference = change(RunRecord("run", {}, "", [], evaluations), "size")
    assert difference is not None
    # two prompts with differences 1 and 0: standard deviation sqrt(1/2), over sqrt(2)
    assert difference.difference.error == pytest.approx(0.5, abs=1e-12)
    assert difference.difference.number == 2
