"""What the report says to be careful about: each sign from both sides of its threshold, and none on a healthy run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_up_record import AFTER, BEFORE, NOISE, evaluation, record, signs, subjects

from ddpo.report.fixed_samples import change
from ddpo.report.wording import MINUS
from ddpo.runs.record import EvaluationRecord, FixedSample, RunRecord


def test_a_healthy_run_has_no_sign():
    run = record(
        evaluation(0, size=BEFORE, weight=-BEFORE, kl_to_base=0.0),  # the trained reward turned round is no other
        evaluation(8, size=AFTER, weight=-AFTER, kl_to_base=9.0),
        config={
            "iterations": 8, "samples_per_iteration": 128, "updates_per_iteration": 4,
            "algorithm": {"name": "ddpo-is", "clip_range": 1e-4},
        },
        reward__mean=[-2.0, -1.9, -1.7, -1.6, -1.4, -1.3, -1.1, -1.0],
        reward__std=[0.4] * 8,
        reward__standard_error=[0.06] * 8,
        clip_fraction=[0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1],
        ratio__max_error_at_start=[0.0] * 8,
        updates_skipped=[0] * 8,
    )  # fmt: skip
    assert signs(run) == {}
    assert {
        "Reward of the fixed samples", "Best reward of the run", "Spread of the rewards", "Clip fraction",
        "Error of the importance ratio", "Updates left out", "Diversity of the fixed samples",
    } <= set(subjects(run, "clear"))  # fmt: skip


def test_without_anything_to_look_at_nothing_is_claimed():
    assert signs(record()) == {}
    assert subjects(record(), "clear") == []
    assert "Divergence from the base model" in subjects(record(), "unknown")


def test_another_reward_that_falls_is_overoptimisation():
    known, forgotten = np.ones(40), np.arange(40) % 2
    run = record(evaluation(0, size=BEFORE, judge=known), evaluation(8, size=AFTER, judge=forgotten))
    # 20 of 40 differences are -1: mean -0.5, standard error 0.5 sqrt(40/39) / sqrt(40) = 0.0801
    assert f"fell from 1.00 to 0.50 ({MINUS}0.500 ± 0.080)" in signs(run)["judge fell"].text
    noise = record(evaluation(0, size=BEFORE, judge=known), evaluation(8, size=AFTER, judge=np.arange(40) != 3))
    assert signs(noise) == {}


@pytest.mark.parametrize(("late", "seen"), [(0.23, True), (0.25, False)])  # -23 % and -17 %
def test_falling_diversity(late, seen):
    run = record(evaluation(0, size=BEFORE, diversity=0.3), evaluation(8, size=AFTER, diversity=late))
    assert ("Samples become alike" in signs(run)) is seen


@pytest.mark.parametrize(("nats", "seen"), [(19.0, False), (22.1, True)])
def test_a_large_divergence_is_compared_with_the_best_of_n(nats, seen):
    run = record(evaluation(0, size=BEFORE, kl_to_base=0.0), evaluation(8, size=AFTER, kl_to_base=nats))
    assert ("Far from the base model" in signs(run)) is seen
    if seen:  # log n - (n - 1) / n = 22.1 nats at n = exp(23.1) = 1.08e10
        assert "the best of about 10^10 of" in signs(run)["Far from the base model"].text


def test_flat_and_falling_rewards():
    flat = record(evaluation(0, size=BEFORE), evaluation(8, size=BEFORE + 0.05 * NOISE[1] - 0.05 * NOISE[1].mean()))
    assert "Flat reward" in signs(flat)
    assert signs(record(evaluation(0, size=AFTER), evaluation(8, size=BEFORE)))["The reward fell"].grave


@pytest.mark.parametrize(
    ("change", "subject"), [(0.21, None), (0.18, "Flat reward"), (-0.18, "Flat reward"), (-0.21, "The reward fell")]
)
def test_without_fixed_samples_the_iterations_are_compared(change, subject):
    # thirds of two values with errors 0.1: sqrt(2) 0.1 / 2 each, of the difference 0.1; 1.96 times that is 0.196
    means = [0.0, 0.0, 0.0, 0.0, change, change]
    found = signs(record(reward__mean=means, reward__standard_error=[0.1] * 6))
    assert list(found) == ([subject] if subject else [])


@pytest.mark.parametrize(("last", "seen"), [(0.49, True), (0.51, False)])
def test_a_reward_that_collapses(last, seen):
    means = [0.0] * 4 + [1.0] * 4 + [last] * 4
    found = signs(record(reward__mean=means, reward__standard_error=[0.01] * 12))
    assert ("The reward collapsed" in found) is seen
    if seen:
        assert "from 0 to 1 (iterations 5 to 6)" in found["The reward collapsed"].text
        assert "51 % of the gain" in found["The reward collapsed"].text


def test_a_collapse_needs_more_than_chance():
    means = [0.0] * 4 + [1.0] * 4 + [0.4] * 4
    # windows of two: error e / sqrt(2) each, of a difference e; the fall of 0.6 is three times e = 0.2
    assert "The reward collapsed" in signs(record(reward__mean=means, reward__standard_error=[0.19] * 12))
    assert "The reward collapsed" not in signs(record(reward__mean=means, reward__standard_error=[0.21] * 12))


@pytest.mark.parametrize("mean", [0.5, -2.0])
def test_no_spread_at_all(mean):
    limit = 1e-6 * max(1, abs(mean))
    for std, seen in ((0.9 * limit, True), (1.1 * limit, False)):
        found = signs(record(reward__mean=[mean] * 6, reward__std=[std] * 6))
        assert ("The rewards do not differ" in found) is seen
    assert signs(record(reward__mean=[mean] * 6, reward__std=[0.0] * 6))["The rewards do not differ"].grave


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({}, 0.5),
        ({"updates_per_iteration": 4}, 0.375),  # the first of four updates finds all ratios at 1: half of 3/4
        ({"updates_per_iteration": 2, "inner_epochs": 2}, 0.375),
    ],
)
def test_a_saturated_clip(config, limit):
    for clipped, seen in ((limit + 0.01, True), (limit - 0.01, False)):
        found = signs(record(config=config, clip_fraction=[0.9] * 9 + [clipped]))
        assert ("Updates hit the clip" in found) is seen


@pytest.mark.parametrize(
    ("clip", "error", "seen"),
    [
        ({"clip_range": 1e-4}, 3e-6, False), ({"clip_range": 1e-4}, 7e-6, True),
        # 0.512 nats over 1024 dimensions: clip 5e-4, tolerated a tenth, sign from half of that
        ({"clip_nats": 0.512}, 2.4e-5, False), ({"clip_nats": 0.512}, 2.6e-5, True),
    ],
)  # fmt: skip
def test_a_replay_that_is_hardly_exact(clip, error, seen):
    run = record(config={"algorithm": {"name": "ddpo-is"} | clip}, ratio__max_error_at_start=[0.0, error, 0.0])
    assert ("The replay is barely exact enough" in signs(replace(run, dimensions=1024))) is seen


@pytest.mark.parametrize(("noise", "seen"), [(4.9e-5, False), (5.1e-5, True)])  # half of the clip, in iteration 1
def test_arithmetic_too_coarse_for_the_clip(noise, seen):
    run = record(config={"algorithm": {"name": "ddpo-is", "clip_range": 1e-4}}, ratio__noise_floor=[noise, None])
    assert ("The arithmetic is too coarse for the clip" in signs(run)) is seen


@pytest.mark.parametrize(("skipped", "seen"), [([9, 10, 10], False), ([10, 10, 10], True)])
def test_updates_that_are_left_out(skipped, seen):
    run = record(config={"updates_per_iteration": 50, "inner_epochs": 2}, updates_skipped=skipped)
    assert ("Updates are left out" in signs(run)) is seen


def test_few_iterations_say_nothing():
    few = record(reward__mean=[5.0, 4, 3, 2, 1], reward__standard_error=[0.01] * 5)
    assert signs(few) == {}
    assert "Trend over the iterations" in subjects(few, "unknown")


def test_problems_come_before_warnings():
    run = record(reward__mean=[1.0] * 6, reward__standard_error=[0.0] * 6, reward__std=[0.0] * 6)
    assert [finding.severity for finding in signs(run).values()] == ["problem", "warning"]


def test_several_samples_of_a_prompt_are_not_independent():
    samples = [FixedSample("cat" if index < 20 else "dog", str(index), {"size": 0.0}) for index in range(40)]
    later = [FixedSample(s.prompt, s.seed, {"size": 1.0 if s.prompt == "cat" else 0.9}) for s in samples]
    labels = {"size": "size"}
    evaluations = [EvaluationRecord(i, s, "size", labels, None, None, None) for i, s in ((0, samples), (8, later))]
    difference = change(RunRecord("run", {}, "", [], evaluations), "size")
    assert difference is not None
    # two prompts with differences 1 and 0.9: standard deviation 0.1 / sqrt(2), over sqrt(2)
    assert difference.difference.error == pytest.approx(0.05, abs=1e-12)
    assert difference.difference.number == 2
    # 0.95 is 19 errors of 0.05; Student's quantile of one degree of freedom is 12.7
    assert difference.difference.rose
