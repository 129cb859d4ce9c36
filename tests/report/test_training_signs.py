"""Signs in the metrics of the iterations: each threshold from both sides, and none of them on a healthy run."""

from __future__ import annotations

import numpy as np
import pytest
from made_up_record import AFTER, BEFORE, evaluation, record, signs, subjects

from ddpo.training.gathering import reward_statistics

FLAT = {"reward__mean": [1.0] * 6, "reward__standard_error": [0.1] * 6}
"""Six iterations whose reward does not move."""
RISING = {"reward__mean": [0.0, 0.0, 1.0, 1.0, 2.0, 2.0], "reward__standard_error": [0.1] * 6}


def test_a_healthy_run_has_no_sign():
    run = record(
        evaluation(0, size=BEFORE, kl_to_base=0.0),
        evaluation(8, size=AFTER, kl_to_base=9.0),
        config={
            "iterations": 8, "samples_per_iteration": 128, "samples_per_prompt": 8, "updates_per_iteration": 4,
            "algorithm": {"name": "ddpo-is", "clip_nats": 0.5}, "max_gradient_norm": 1.0, "sampler": {"steps": 10},
        },
        reward__mean=[-2.0, -1.9, -1.7, -1.6, -1.4, -1.3, -1.1, -1.0],
        reward__std=[0.4] * 8,
        reward__standard_error=[0.06] * 8,
        clip_fraction=[0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1],
        kl__step=[0.02] * 8,
        ratio__max_error_at_start=[0.0] * 8,
        gradient_norm=[0.3, 0.2, 0.2, 0.2, 0.2, 0.2, 0.1, 0.1],
        updates_skipped=[0] * 8,
    )  # fmt: skip
    assert signs(run) == {}
    assert {
        "Reward of the fixed samples", "Best reward of the run", "Spread of the rewards", "Spread within prompts",
        "Clip fraction", "Error of the importance ratio", "Gradient norm", "Updates left out",
    } <= set(subjects(run, "clear"))  # fmt: skip


@pytest.mark.parametrize("mean", [0.5, -2.0])
def test_no_spread_at_all(mean):
    limit = 1e-6 * max(1, abs(mean))
    for std, seen in ((0.9 * limit, True), (1.1 * limit, False)):
        found = signs(record(reward__mean=[mean] * 6, reward__std=[std] * 6))
        assert ("The rewards do not differ" in found) is seen
        assert "The rewards hardly differ" not in found
    assert signs(record(reward__mean=[mean] * 6, reward__std=[0.0] * 6))["The rewards do not differ"].grave


def of_prompts(within, advantage="running", algorithm="ddpo-is"):
    """Return a run of 8 prompts x 4 samples; a share `within` of the rewards' sum of squares lies within prompts."""
    generator = np.random.default_rng(0)
    between, inside = np.repeat(generator.normal(size=8), 4), generator.normal(size=(8, 4))
    inside = (inside - inside.mean(1, keepdims=True)).ravel()
    between -= between.mean()
    # the two parts are orthogonal: scaled to 1 - within and within, their squares add up to 1
    reward_B = between * np.sqrt((1 - within) / (between @ between)) + inside * np.sqrt(within / (inside @ inside))
    statistics = reward_statistics(reward_B, np.repeat(np.arange(8), 4))
    config = {
        "samples_per_iteration": 32, "samples_per_prompt": 4,
        "advantage": {"name": advantage}, "algorithm": {"name": algorithm},
    }  # fmt: skip
    return record(config=config, **{key.replace("/", "__"): [value] * 6 for key, value in statistics.items()})


def test_samples_of_a_prompt_that_score_alike():
    assert "Samples of one prompt score alike" in signs(of_prompts(0.9e-3))
    assert "Samples of one prompt score alike" not in signs(of_prompts(1.1e-3))
    assert signs(of_prompts(0.0))["Samples of one prompt score alike"].grave
    # what compares all samples of an iteration learns from the prompts' differences
    assert "Samples of one prompt score alike" not in signs(of_prompts(0.0, advantage="batch"))
    assert "Samples of one prompt score alike" not in signs(of_prompts(0.0, algorithm="rwr"))
    fewer = of_prompts(0.0)  # where the reward failed on prompts there are not as many samples as configured
    for row in fewer.metrics:
        row["reward/skipped"] = 4
    assert "Samples of one prompt score alike" not in signs(fewer)


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


def test_a_clip_that_is_never_active():
    config = {"updates_per_iteration": 4}
    assert "The clip is never active" in signs(record(config=config, clip_fraction=[0.0] * 6, **FLAT))
    assert "The clip is never active" not in signs(record(config=config, clip_fraction=[0.0] * 5 + [0.01], **FLAT))
    assert "The clip is never active" not in signs(record(config=config, clip_fraction=[0.0] * 6, **RISING))
    on_policy = {"updates_per_iteration": 1}
    assert "The clip is never active" not in signs(record(config=on_policy, clip_fraction=[0.0] * 6, **FLAT))


@pytest.mark.parametrize(("error", "seen"), [(2.6e-5, True), (2.4e-5, False)])
def test_a_clip_in_nats_has_a_tolerance_too(error, seen):
    from dataclasses import replace

    # 0.512 nats over 1024 dimensions: clip 5e-4, tolerated a tenth, sign from half of that
    run = record(config={"algorithm": {"name": "ddpo-is", "clip_nats": 0.512}}, ratio__max_error_at_start=[0.0, error])
    assert signs(run) == {}  # without the dimensions nothing says it
    assert ("The replay is barely exact enough" in signs(replace(run, dimensions=1024))) is seen


def test_gradients():
    exploding, growing = [1.0] * 4 + [10.1] * 2, [1.0] * 4 + [9.9] * 2
    assert signs(record(gradient_norm=exploding))["The gradient explodes"].grave
    assert signs(record(gradient_norm=growing)) == {}
    limit = {"max_gradient_norm": 1.0}
    assert (
        "Set max_gradient_norm to about 10"
        in signs(record(config=limit, gradient_norm=[10.1] * 6))["Every gradient is cut"].advice
    )
    assert signs(record(config=limit, gradient_norm=[10.1] * 5 + [9.9])) == {}
    assert signs(record(config={"max_gradient_norm": None}, gradient_norm=[10.1] * 6)) == {}


def test_a_learning_rate_that_is_too_small():
    subject, config = "The learning rate is too small", {"sampler": {"steps": 10}}
    # half a standard deviation takes 1/8 nat: 10 steps, 6 iterations in one direction, 10 x 6^2 x kl = 1/8
    border = 1 / 8 / 360
    assert subject in signs(record(config=config, kl__step=[0.98 * border] * 6, **FLAT))
    assert subject not in signs(record(config=config, kl__step=[1.02 * border] * 6, **FLAT))
    # twice as many iterations are to come: four times as many nats
    assert subject not in signs(record(config=config | {"iterations": 12}, kl__step=[0.26 * border] * 6, **FLAT))
    assert subject in signs(record(config=config | {"iterations": 12}, kl__step=[0.24 * border] * 6, **FLAT))
    # where all samples score the same, that is why
    assert subject not in signs(record(config=config, kl__step=[0.5 * border] * 6, reward__std=[0.0] * 6, **FLAT))


@pytest.mark.parametrize(("nats", "seen"), [(0.12, True), (0.13, False)])
def test_a_measured_divergence_tells_how_far_the_policy_moves(nats, seen):
    run = record(evaluation(0, size=BEFORE, kl_to_base=0.0), evaluation(6, size=AFTER, kl_to_base=nats), **RISING)
    assert ("The learning rate is too small" in signs(run)) is seen


@pytest.mark.parametrize(("nats", "seen"), [(9.9, False), (10.1, True)])
def test_a_learning_rate_that_is_too_large(nats, seen):
    steps = [0.1] * 9 + [nats]
    assert ("The learning rate is too large" in signs(record(kl__step=steps))) is seen
    if seen:
        rising = record(evaluation(0, size=BEFORE), evaluation(10, size=AFTER), kl__step=steps)
        assert signs(record(kl__step=steps))["The learning rate is too large"].severity == "problem"
        assert signs(rising)["The learning rate is too large"].severity == "warning"


def test_a_jump():
    calm, wild = [0.01] * 5 + [0.099], [0.01] * 5 + [0.101]
    assert "in iteration 6" in signs(record(kl__step=wild, **FLAT))["The policy jumped"].text
    assert "The policy jumped" not in signs(record(kl__step=calm, **FLAT))
    assert "The policy jumped" not in signs(record(kl__step=wild, **RISING))


@pytest.mark.parametrize(("last", "seen"), [(0.49, True), (0.51, False)])
def test_a_reward_that_collapses(last, seen):
    means = [0.0] * 4 + [1.0] * 4 + [last] * 4
    found = signs(record(reward__mean=means, reward__standard_error=[0.01] * 12, kl__step=[0.01] * 12))
    assert ("The reward collapsed" in found) is seen
    if seen:
        assert "from 0 to 1 (iterations 5 to 6)" in found["The reward collapsed"].text
        assert "losing 51 % of the gain. Meanwhile the divergence" in found["The reward collapsed"].text


def test_a_collapse_needs_more_than_chance():
    means = [0.0] * 4 + [1.0] * 4 + [0.4] * 4
    # windows of two: error e / sqrt(2) each, of a difference e; the fall of 0.6 is three times e = 0.2
    assert "The reward collapsed" in signs(record(reward__mean=means, reward__standard_error=[0.19] * 12))
    assert "The reward collapsed" not in signs(record(reward__mean=means, reward__standard_error=[0.21] * 12))


@pytest.mark.parametrize(
    ("change", "subject"), [(0.21, None), (0.18, "Flat reward"), (-0.18, "Flat reward"), (-0.21, "The reward fell")]
)
def test_without_fixed_samples_the_iterations_are_compared(change, subject):
    # thirds of two values with errors 0.1: sqrt(2) 0.1 / 2 each, of the difference 0.1; 1.96 times that is 0.196
    means = [0.0, 0.0, 0.0, 0.0, change, change]
    found = signs(record(reward__mean=means, reward__standard_error=[0.1] * 6))
    assert list(found) == ([subject] if subject else [])
    if subject == "The reward fell":
        assert found[subject].severity == "problem"
        assert found[subject].keys == ("reward/mean",)


@pytest.mark.parametrize(("skipped", "seen"), [(9, False), (10, True)])
def test_a_reward_that_fails(skipped, seen):
    run = record(config={"samples_per_iteration": 100}, reward__skipped=[skipped] * 3)
    assert ("The reward fails" in signs(run)) is seen


def test_few_iterations_say_nothing():
    few = record(reward__mean=[5.0, 4, 3, 2, 1], reward__standard_error=[0.01] * 5, gradient_norm=[1.0, 1, 1, 1, 99])
    assert signs(few) == {}
    assert "Trend over the iterations" in subjects(few, "unknown")
    assert "Trend over the iterations" not in subjects(record(**FLAT), "unknown")


def test_problems_come_before_warnings():
    run = record(reward__mean=[1.0] * 6, reward__standard_error=[0.0] * 6, reward__std=[0.0] * 6)
    assert [finding.severity for finding in signs(run).values()] == ["problem", "warning"]
