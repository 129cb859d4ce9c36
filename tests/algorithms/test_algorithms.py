"""The algorithms as objects: what a sample's credit is, which pairs an update sees, and how the loss is scaled."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ddpo.algorithms import (
    Advantage,
    Algorithm,
    DDPOImportanceSampling,
    DDPOScoreFunction,
    RewardWeightedRegression,
    SparseRewardWeightedRegression,
    WeightedRegression,
    algorithm_class,
)
from ddpo.core.experience import Experience, UpdateSettings
from ddpo.core.prompt import Prompt
from ddpo.core.rollout import rollout
from ddpo.runtime.errors import ConfigError

STEPS, SAMPLES = 8, 16
DIMENSIONS = 3 * 8 * 8


def settings(number=1, fraction=1.0, epochs=1, **advantage):
    return UpdateSettings(number, epochs, fraction, Advantage(**advantage))


@pytest.fixture
def policy(conv_policy, ddim_config):
    return conv_policy(ddim_config(), steps=STEPS)


@pytest.fixture
def trajectory(policy):
    return rollout(policy, policy.encode([Prompt("a")] * SAMPLES), range(SAMPLES), batch_size=SAMPLES)


def experience(trajectory, credit_S=None, first=0, iteration=1):
    credit_S = np.ones(len(trajectory)) if credit_S is None else np.asarray(credit_S, dtype=np.float64)
    return Experience(trajectory, credit_S, first, run_seed=3, iteration=iteration)


# --- Credit ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("clip", "largest"), [(1.5, 1.5), (None, math.sqrt(15))])
def test_advantages_are_clipped(clip, largest):
    # One of 16 rewards is 1 more than the others: (1 - 1/16) / sqrt(15/256) = sqrt(15), the others -1/sqrt(15).
    reward_S = np.array([1.0] + [0.0] * 15)
    advantage_S, _, _ = DDPOScoreFunction().credit(["a"] * 16, reward_S, {}, settings(name="batch", clip=clip))
    assert advantage_S.max() == pytest.approx(largest, rel=1e-5)
    assert advantage_S.min() == pytest.approx(-1 / math.sqrt(15), rel=1e-5)


def test_negative_advantages_are_clipped_too():
    advantage_S, _ = Advantage(name="batch", clip=0.5)(["a"] * 4, np.array([-9.0, 1.0, 1.0, 1.0]), {})
    assert advantage_S.min() == -0.5


def test_the_running_statistics_are_plain_state():
    # Two rewards of a prompt from the iteration before count: (2 - 1) / std(0, 0, 2, 2).
    advantage = Advantage(min_count=2, clip=None)
    _, state = advantage(["a", "a"], np.zeros(2), {})
    assert state == {"rewards": {"a": (0.0, 0.0)}}
    restored = {"rewards": {"a": [0.0, 0.0]}}  # as JSON gives it back
    advantage_S, after = advantage(["a", "a"], np.array([2.0, 2.0]), restored)
    np.testing.assert_allclose(advantage_S, [1.0, 1.0], rtol=1e-5)
    assert after == {"rewards": {"a": (0.0, 0.0, 2.0, 2.0)}}


@pytest.fixture
def own(tmp_path):
    """Return the name of a function in a file whose body is given."""

    def write(body):
        (tmp_path / "own.py").write_text(f"import numpy as np\n\ndef advantage(prompts, rewards, state):\n{body}\n")
        return f"{tmp_path}/own.py:advantage"

    return write


def test_an_advantage_of_the_user_s_own_keeps_its_state_and_is_clipped(own):
    name = own("    seen = state.get('seen', 0)\n    return list(rewards - seen), {'seen': seen + 1}")
    advantage = Advantage(name=name, clip=2.0)
    advantage_S, state = advantage(["a", "b"], np.array([1.0, 7.0]), {"seen": 2})
    assert advantage_S.tolist() == [-1.0, 2.0]
    assert state == {"seen": 3}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("    return rewards[:1], state", "must return 2 finite numbers, one a sample, and the state as a dict"),
        ("    return rewards * np.nan, state", "must return 2 finite numbers"),
        ("    return rewards", "must return 2 finite numbers"),
        ("    return rewards, None", "and the state as a dict"),
        ("    return None", "raised TypeError: "),
        ("    return 1 / 0", "raised ZeroDivisionError: division by zero"),
    ],
)
def test_an_advantage_that_cannot_be_used_is_named(own, body, message):
    name = own(body)
    with pytest.raises(ConfigError, match=message) as raised:
        Advantage(name=name)(["a", "b"], np.array([1.0, np.pi]), {})
    assert name in str(raised.value)


# --- Minibatches -----------------------------------------------------------------------------------------------------


def test_a_fraction_of_the_steps_is_a_random_subset_of_each_sample(policy, trajectory):
    [pairs] = DDPOImportanceSampling().minibatches(policy, experience(trajectory), settings(fraction=0.5))
    steps = {sample: set() for sample in range(SAMPLES)}
    for sample, step in zip(pairs.sample_N.tolist(), pairs.step_N.tolist(), strict=True):
        steps[sample].add(step)
    assert {len(kept) for kept in steps.values()} == {4}  # none twice
    assert len({tuple(sorted(kept)) for kept in steps.values()}) > 5
    # Were they the noisiest ones, or any other fixed ones, the rest would never be seen.
    assert set().union(*steps.values()) == set(range(STEPS))


def test_every_update_and_epoch_has_pairs_of_its_own_and_the_same_again(policy, trajectory):
    def drawn(iteration=1):
        minibatches = DDPOImportanceSampling().minibatches(
            policy, experience(trajectory, iteration=iteration), settings(4, epochs=2)
        )
        return [(pairs.sample_N.tolist(), pairs.step_N.tolist()) for pairs in minibatches]

    first = drawn()
    assert len(first) == 8
    for epoch in (first[:4], first[4:]):
        seen = [pair for samples, steps in epoch for pair in zip(samples, steps, strict=True)]
        assert sorted(seen) == [(sample, step) for sample in range(SAMPLES) for step in range(STEPS)]
    assert first[:4] != first[4:]
    assert drawn() == first
    assert drawn(iteration=2) != first


def test_an_update_holds_samples_from_anywhere(policy, trajectory):
    # In the order they were drawn, neighbours, often of one prompt, would always be together.
    drawn = [
        set(pairs.sample_N.tolist())
        for iteration in (1, 2, 3)
        for pairs in DDPOImportanceSampling().minibatches(
            policy, experience(trajectory, iteration=iteration), settings(4)
        )
    ]
    assert {len(samples) for samples in drawn} == {4}
    assert len({tuple(sorted(samples)) for samples in drawn}) == 12
    assert sum(max(samples) - min(samples) == 3 for samples in drawn) <= 1


def test_a_process_trains_on_its_part_of_the_credit(policy, trajectory):
    credit_S = np.arange(2.0 * SAMPLES)
    [pairs] = DDPOScoreFunction().minibatches(policy, experience(trajectory, credit_S, first=SAMPLES), settings())
    assert torch.equal(pairs.advantage_B, torch.arange(float(SAMPLES), 2 * SAMPLES))


def test_processes_noise_their_samples_differently(policy, trajectory):
    algorithm = RewardWeightedRegression(samples_per_update=8)
    first, second = (
        next(algorithm.minibatches(policy, experience(trajectory, np.ones(2 * SAMPLES), first), settings()))
        for first in (0, SAMPLES)
    )
    assert len(first) == len(second) == 4  # of 8 in all
    assert not torch.equal(first.time_N, second.time_N)
    assert not torch.equal(first.noise, second.noise)


def test_weights_of_two_processes_make_the_mean_over_all_kept_samples(policy, trajectory):
    # Process 0 kept 2 samples, of weights 1 and 5, process 1 six of weight 1. Each goes through its own in passes; the
    # mean over both is to be 1/8 (1 + 5 + 6 x 1) = 1.5.
    credit_S = np.zeros(2 * SAMPLES)
    credit_S[[3, 7]] = 1.0, 5.0
    credit_S[SAMPLES : SAMPLES + 6] = 1.0
    algorithm = SparseRewardWeightedRegression(samples_per_update=24)
    means, kept = [], []
    for first in (0, SAMPLES):
        [batch] = algorithm.minibatches(policy, experience(trajectory, credit_S, first), settings())
        means.append(batch.weight_N.mean().item())
        kept.append(set(batch.sample_N.tolist()))
    assert kept == [{3, 7}, set(range(6))]
    assert means == pytest.approx([3.0 * 2 * 2 / 8, 1.0 * 6 * 2 / 8])
    assert np.mean(means) == pytest.approx(1.5)


def test_a_process_that_kept_nothing_adds_nothing(policy, trajectory):
    credit_S = np.zeros(2 * SAMPLES)
    credit_S[:4] = 1.0
    [batch] = SparseRewardWeightedRegression(samples_per_update=8).minibatches(
        policy, experience(trajectory, credit_S, first=SAMPLES), settings()
    )
    assert (batch.weight_N == 0).all()


# --- Loss ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("log_prob", "divisor"), [("mean", DIMENSIONS), ("sum", 1)])
def test_the_ratio_is_of_the_mean_or_the_sum_over_dimensions(policy, trajectory, log_prob, divisor):
    # Old log-probabilities that are d nats lower: ratio exp(d / D) or exp(d). A = 1 inside the clip: the loss is
    # -ratio, and by the chain rule its gradient -ratio / divisor times that of the log-probability.
    difference = 0.1
    shifted = trajectory.__class__(**{**vars(trajectory), "log_prob_BL": trajectory.log_prob_BL - difference})
    algorithm = DDPOImportanceSampling(log_prob=log_prob, clip_range=0.5)
    [pairs] = algorithm.minibatches(policy, experience(shifted), settings())
    loss, metrics = algorithm.loss(policy, pairs)
    ratio = math.exp(difference / divisor)
    assert loss.item() == pytest.approx(-ratio, rel=1e-5)
    assert metrics["ratio"].numpy() == pytest.approx(np.full(len(pairs), ratio), rel=1e-3)
    assert metrics["clip_fraction"].sum() == 0
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in policy.parameters()])
    policy.network.zero_grad()
    DDPOScoreFunction(log_prob="sum").loss(policy, pairs)[0].backward()  # -mean(log p), the gradient to be divided
    reference = torch.cat([p.grad.flatten() for p in policy.parameters()])
    torch.testing.assert_close(
        gradient, ratio / divisor * reference, rtol=1e-3, atol=1e-5 * float(reference.abs().max()) / divisor
    )


def test_a_clip_in_nats_is_divided_by_the_dimensions(policy, trajectory):
    # 0.1 nats: a shift of 0.09 is inside, one of 0.11 outside.
    for difference, clipped in ((0.09, 0.0), (0.11, 1.0)):
        shifted = trajectory.__class__(**{**vars(trajectory), "log_prob_BL": trajectory.log_prob_BL - difference})
        algorithm = DDPOImportanceSampling(clip_nats=0.1)
        [pairs] = algorithm.minibatches(policy, experience(shifted), settings())
        _, metrics = algorithm.loss(policy, pairs)
        assert metrics["clip_fraction"].mean() == clipped


def test_the_score_function_is_minus_advantage_times_log_prob(policy, trajectory):
    credit_S = np.linspace(-1, 2, SAMPLES)
    for log_prob, divisor in (("mean", DIMENSIONS), ("sum", 1)):
        algorithm = DDPOScoreFunction(log_prob=log_prob)
        [pairs] = algorithm.minibatches(policy, experience(trajectory, credit_S), settings())
        loss, _ = algorithm.loss(policy, pairs)
        expected = -(credit_S[:, None] * trajectory.log_prob_BL.double().numpy()).mean() / divisor
        assert loss.item() == pytest.approx(expected, rel=1e-4)


# --- Algorithms of the user's own ------------------------------------------------------------------------------------


class ForwardPolicyGradient(WeightedRegression):
    """Weighs samples by their advantage: away from the bad ones, towards the good ones."""

    name: str = "forward"

    def credit(self, prompts, reward_S, state, settings):
        advantage_S, state = settings.advantage(prompts, reward_S, state)
        return advantage_S, state, {}

    def _weights(self, prompts, rewards):
        raise NotImplementedError


def test_a_policy_gradient_of_the_forward_process_can_be_written(policy, trajectory):
    algorithm = ForwardPolicyGradient(samples_per_update=SAMPLES)
    reward_S = np.arange(float(SAMPLES))
    credit_S, _, _ = algorithm.credit(["a"] * SAMPLES, reward_S, {}, settings(name="batch"))
    [batch] = algorithm.minibatches(policy, experience(trajectory, credit_S), settings())
    assert sorted(batch.sample_N.tolist()) == list(range(SAMPLES))
    np.testing.assert_allclose(batch.weight_N.numpy(), credit_S[batch.sample_N.numpy()], rtol=1e-6)
    assert (batch.weight_N < 0).sum() == SAMPLES // 2
    loss, metrics = algorithm.loss(policy, batch)
    torch.testing.assert_close(loss, (batch.weight_N * metrics["denoising_loss"]).mean())


def test_an_algorithm_is_found_by_its_path(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from ddpo.algorithms import DDPOScoreFunction\n\nclass Mine(DDPOScoreFunction):\n    name: str = 'mine'\n\n"
        "def not_one():\n    pass\n"
    )
    kind = algorithm_class(f"{tmp_path}/mine.py:Mine")
    assert issubclass(kind, Algorithm)
    with pytest.raises(ConfigError, match="is not a class that derives from ddpo"):
        algorithm_class(f"{tmp_path}/mine.py:not_one")
    with pytest.raises(ConfigError, match=r"has no 'Min'\. Did you mean 'Mine'\?"):
        algorithm_class(f"{tmp_path}/mine.py:Min")


@pytest.mark.parametrize(
    ("algorithm", "tolerance"),
    [
        (DDPOImportanceSampling(), 1e-5),  # a tenth of the paper's clip
        (DDPOImportanceSampling(clip_nats=1.64), 1.64 / DIMENSIONS / 10),
        (DDPOScoreFunction(), 1e-5 * 16384 / DIMENSIONS),  # the same in nats, of a mean over fewer dimensions
        (DDPOScoreFunction(log_prob="sum"), 1e-5 * 16384),
        (RewardWeightedRegression(), math.inf),  # it replays nothing
    ],
)
def test_replay_may_be_off_by_a_tenth_of_the_clip(algorithm, tolerance):
    assert algorithm.ratio_tolerance(DIMENSIONS) == pytest.approx(tolerance)
