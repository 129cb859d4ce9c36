"""Advantages against hand computation and the properties that any normalisation must have (REFERENCE 10-14)."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from ddpo.core.advantages import (
    RunningStatistics,
    batch_advantages,
    group_advantages,
    leave_one_out_advantages,
)

EPSILON = 1e-6  # the public codes' addition to the standard deviation

METHODS = {
    "batch": lambda prompts, rewards: batch_advantages(rewards),
    "group": group_advantages,
    "leave_one_out": leave_one_out_advantages,
    "running": lambda prompts, rewards: RunningStatistics(32, 2).update(prompts, rewards)[1],
}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def normalised(reward: float, pool: list[float]) -> float:
    """(reward - mean) / (population std + epsilon) by the standard library."""
    return (reward - statistics.fmean(pool)) / (statistics.pstdev(pool) + EPSILON)


def test_batch_by_hand():
    # mean 5, population variance ((2-5)^2 + 3 (4-5)^2 + 2 (5-5)^2 + (7-5)^2 + (9-5)^2) / 8 = 32/8, std 2
    rewards = [2, 4, 4, 4, 5, 5, 7, 9]
    expected = [(r - 5) / (2 + EPSILON) for r in rewards]
    np.testing.assert_allclose(batch_advantages(rewards), expected, rtol=1e-12)


def test_group_by_hand():
    # cat: 1, 3 -> mean 2, std 1; dog: 10, 10, 40 -> mean 20, variance (100 + 100 + 400)/3 = 200
    prompts = ["cat", "dog", "dog", "cat", "dog"]
    expected = [-1 / (1 + EPSILON), *[-10 / (math.sqrt(200) + EPSILON)] * 2, 1 / (1 + EPSILON)]
    expected.append(20 / (math.sqrt(200) + EPSILON))
    np.testing.assert_allclose(group_advantages(prompts, [1, 10, 10, 3, 40]), expected, rtol=1e-12)


def test_leave_one_out_by_hand():
    # cat: 1 - 3 and 3 - 1; dog: 10 - (10 + 40)/2 = -15 twice, 40 - 10 = 30
    prompts = ["cat", "dog", "dog", "cat", "dog"]
    np.testing.assert_allclose(leave_one_out_advantages(prompts, [1, 10, 10, 3, 40]), [-2, -15, -15, 2, 30], rtol=1e-12)


def test_running_appends_first_then_takes_statistics():
    # REFERENCE 10: the buffer that normalises already holds the new rewards.
    state = RunningStatistics(buffer_size=8, min_count=2)
    state, _ = state.update(["cat", "cat"], [1, 3])
    _, advantages = state.update(["cat", "cat"], [5, 7])
    pool = [1, 3, 5, 7]  # mean 4, variance (9 + 1 + 1 + 9)/4 = 5
    np.testing.assert_allclose(advantages, [1 / (math.sqrt(5) + EPSILON), 3 / (math.sqrt(5) + EPSILON)], rtol=1e-12)
    np.testing.assert_allclose(advantages, [normalised(5, pool), normalised(7, pool)], rtol=1e-12)


def test_running_keeps_the_latest():
    state = RunningStatistics(buffer_size=3, min_count=1)
    state, _ = state.update(["cat"] * 2, [100, 200])
    state, advantages = state.update(["cat"] * 2, [1, 3])
    assert state.history["cat"] == (200, 1, 3)
    np.testing.assert_allclose(advantages, [normalised(r, [200, 1, 3]) for r in (1, 3)], rtol=1e-12)


def test_more_of_a_prompt_than_its_buffer_holds():
    state, advantages = RunningStatistics(buffer_size=2, min_count=2).update(["cat"] * 3, [10, 1, 3])
    assert state.history["cat"] == (1, 3)
    np.testing.assert_allclose(advantages, [normalised(r, [1, 3]) for r in (10, 1, 3)], rtol=1e-12)


def test_below_min_count_the_batch_counts():
    # cat has 3 of the 3 rewards it needs, dog 2: dog is normalised by the whole batch, as in the public trackers.
    prompts, rewards = ["cat", "dog", "cat", "dog", "cat"], [1, 20, 2, 40, 6]
    state, advantages = RunningStatistics(buffer_size=8, min_count=3).update(prompts, rewards)
    cats = [1, 2, 6]
    expected = [
        normalised(reward, cats if prompt == "cat" else rewards)
        for prompt, reward in zip(prompts, rewards, strict=True)
    ]
    np.testing.assert_allclose(advantages, expected, rtol=1e-12)
    # One more dog, and its own three count: 20, 40, 90.
    _, advantages = state.update(["dog"], [90])
    np.testing.assert_allclose(advantages, [normalised(90, [20, 40, 90])], rtol=1e-12)


def test_running_equals_the_reference_tracker_over_many_iterations():
    # The algorithm of kvablack/ddpo-pytorch (ddpo_pytorch/stat_tracking.py) with deques, in float64.
    from collections import deque

    rng = np.random.default_rng(0)
    state, buffers = RunningStatistics(buffer_size=6, min_count=4), {}
    for _ in range(12):
        prompts = rng.choice(["a", "b", "c", "d"], 7).tolist()
        rewards = rng.normal(3, 2, 7)
        state, advantages = state.update(prompts, rewards)
        expected = np.empty(7)
        for prompt in np.unique(prompts):
            own = rewards[np.asarray(prompts) == prompt]
            buffers.setdefault(prompt, deque(maxlen=6)).extend(own)
            pool = rewards if len(buffers[prompt]) < 4 else np.asarray(buffers[prompt])
            expected[np.asarray(prompts) == prompt] = (own - np.mean(pool)) / (np.std(pool) + EPSILON)
        np.testing.assert_allclose(advantages, expected, rtol=1e-12)


def test_running_state_is_immutable():
    first = RunningStatistics(buffer_size=4, min_count=1)
    second, once = first.update(["cat", "dog", "cat"], [1, 2, 3])
    assert dict(first.history) == {}
    before = dict(second.history)
    third, _ = second.update(["cat", "owl"], [5, 6])
    assert dict(second.history) == before == {"cat": (1, 3), "dog": (2,)}
    assert dict(third.history) == {"cat": (1, 3, 5), "dog": (2,), "owl": (6,)}
    _, again = first.update(["cat", "dog", "cat"], [1, 2, 3])
    np.testing.assert_array_equal(once, again)


@every_method
def test_integers_are_not_truncated(method):
    # REFERENCE 12: np.empty_like(rewards) of the public codes turns 0.9 into 0.
    prompts = ["cat"] * 4
    integers, floats = method(prompts, np.array([1, 2, 2, 3])), method(prompts, np.array([1.0, 2.0, 2.0, 3.0]))
    assert integers.dtype == np.float64
    np.testing.assert_array_equal(integers, floats)
    assert abs(integers[0] - round(integers[0])) > 0.1


@every_method
@pytest.mark.parametrize("value", [0.0, 1.0, 3.25, -7.0, 1e6])
@pytest.mark.parametrize("number", [1, 2, 5])
def test_constant_rewards_give_exactly_0(method, value, number):
    assert method(["cat"] * number, [value] * number).tolist() == [0.0] * number


@every_method
@pytest.mark.parametrize(("value", "number"), [(0.1, 3), (1e6 + 0.1, 7)])
def test_constants_that_binary_fractions_do_not_hold_give_exactly_0(method, value, number):
    # Their floating-point mean is another number: sum([0.1] * 3) / 3 = 0.10000000000000002.
    assert method(["cat"] * number, [value] * number).tolist() == [0.0] * number


@pytest.mark.parametrize("name", ["group", "leave_one_out"])
def test_groups_of_one_give_exactly_0(name):
    assert METHODS[name](["a", "b", "c"], [1.0, 5.0, 9.5]).tolist() == [0.0, 0.0, 0.0]


def test_running_with_min_count_1_and_one_reward_gives_exactly_0():
    _, advantages = RunningStatistics(8, 1).update(["a", "b"], [1.0, 5.0])
    assert advantages.tolist() == [0.0, 0.0]


def test_a_constant_group_among_others_gives_exactly_0():
    advantages = group_advantages(["a", "b", "a", "b"], [0.1, 1.0, 0.1, 3.0])
    assert advantages[[0, 2]].tolist() == [0.0, 0.0]
    np.testing.assert_allclose(advantages[[1, 3]], [-1 / (1 + EPSILON), 1 / (1 + EPSILON)], rtol=1e-12)


def test_a_constant_history_gives_exactly_0():
    state, _ = RunningStatistics(8, 2).update(["a", "a"], [0.1, 0.1])
    _, advantages = state.update(["a", "b"], [0.1, 9.0])
    assert advantages[0] == 0.0


@every_method
def test_large_offset_keeps_its_digits(method):
    # Rewards 1e6 + k/1024 are exact in float64 (not in float32, whose spacing there is 1/16), so the advantages are
    # those of k/1024, but for the rounding of the mean: 1e6 * 2^-53 = 1e-10, against deviations of 2e-4 and more.
    k = np.array([3.0, 1.0, 4.0, 1.0, 5.0, 9.0]) / 1024
    prompts = ["cat"] * 6
    np.testing.assert_allclose(method(prompts, 1e6 + k), method(prompts, k), rtol=1e-6)
    assert np.ptp(method(prompts, 1e6 + k)) > 1e-3


@every_method
def test_permutation_equivariance(method):
    rng = np.random.default_rng(1)
    prompts, rewards = rng.choice(["a", "b", "c"], 12).tolist(), rng.normal(size=12)
    order = rng.permutation(12)
    shuffled = method([prompts[i] for i in order], rewards[order])
    np.testing.assert_allclose(shuffled, method(prompts, rewards)[order], rtol=1e-9, atol=1e-12)


@every_method
def test_rewards_are_not_changed(method):
    rewards = np.array([1.0, 2.0, 4.0])
    method(["a"] * 3, rewards)
    assert rewards.tolist() == [1.0, 2.0, 4.0]


@every_method
def test_mean_is_0_and_scale_is_removed(method):
    rng = np.random.default_rng(2)
    rewards = rng.normal(5, 2, 50)
    advantages = method(["a"] * 32 + ["b"] * 18, rewards)
    assert math.isclose(advantages.sum(), 0, abs_tol=1e-10)
    if method is not METHODS["leave_one_out"]:
        # std + 1e-6 against 1000 std + 1e-6
        scaled = method(["a"] * 32 + ["b"] * 18, 1000 * rewards + 7)
        np.testing.assert_allclose(scaled, advantages, rtol=2e-6)


@pytest.mark.parametrize("name", ["group", "leave_one_out", "running"])
@pytest.mark.parametrize("pair", [("a cat", "a Cat"), ("a cat", "a cat "), ("x" * 400 + "a", "x" * 400 + "b")])
def test_prompts_that_tokenise_alike_stay_distinct(name, pair):
    # REFERENCE 13: token ids are lower-cased and cut at 77. With one reward difference inside each prompt, the two
    # prompts have their own means 1 and 11, so the advantages are the same for both.
    prompts = [pair[0], pair[0], pair[1], pair[1]]
    advantages = METHODS[name](prompts, [0.0, 2.0, 10.0, 12.0])
    np.testing.assert_allclose(advantages[:2], advantages[2:], rtol=1e-12)
    assert advantages[0] == -advantages[1] < 0


@pytest.mark.parametrize("name", ["group", "leave_one_out", "running"])
def test_wrong_lengths_are_refused(name):
    with pytest.raises(ValueError, match="2 prompts"):
        METHODS[name](["a", "b"], [1.0, 2.0, 3.0])


@every_method
def test_wrong_shapes_are_refused(method):
    with pytest.raises(ValueError, match="rewards"):
        method(["a", "b"], [[1.0], [2.0]])
