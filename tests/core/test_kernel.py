"""`Kernel`: any set of its steps may be stochastic; those have a likelihood, in rollout, replay and pairs."""

from __future__ import annotations

import pytest
import torch

from ddpo.core.forward_process import VariancePreserving
from ddpo.core.kernel import Kernel, ancestral, ddim
from ddpo.core.minibatches import shuffled_pairs
from ddpo.core.objectives import importance_ratio
from ddpo.core.prompt import Prompt
from ddpo.core.rollout import replay, rollout
from ddpo.runtime.errors import ConfigError

TIMES = [900, 700, 500, 300, 100, 40]
STDS = [0.5, 0.0, 0.4, 0.3, 0.0, 0.0]
STOCHASTIC = [0, 2, 3]
PROMPTS = [Prompt("a"), Prompt("owl"), Prompt("elephant"), Prompt("ox")]


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


KERNEL = Kernel(torch.tensor(TIMES), column(1.0, 0.9, 0.8, 0.9, 1.1, 1.0), column(*[-0.2] * 6), column(*STDS))


@pytest.fixture
def policy(conv_policy, ddim_config):
    made = conv_policy(ddim_config(), steps=6)
    made.kernel = KERNEL
    return made


@pytest.fixture
def trajectory(policy):
    return rollout(policy, policy.encode(PROMPTS), range(4), batch_size=4)


def all_pairs(trajectory):
    """Return every pair in one shuffled minibatch."""
    generator = torch.Generator().manual_seed(0)
    [pairs] = shuffled_pairs(trajectory, torch.zeros(len(trajectory)), number=1, generator=generator)
    return pairs


def test_steps_with_noise_are_the_stochastic_ones():
    assert KERNEL.stochastic_L.tolist() == STOCHASTIC
    assert len(KERNEL) == 6


def test_only_they_are_stored_with_their_density(policy, trajectory):
    assert trajectory.states.shape == (4, 7, 3, 8, 8)
    assert trajectory.means.shape == (4, 3, 3, 8, 8)
    for index, step in enumerate(STOCHASTIC):
        normal = torch.distributions.Normal(trajectory.means[:, index].double(), STDS[step])
        expected_B = normal.log_prob(trajectory.states[:, step + 1].double()).flatten(1).sum(1)
        torch.testing.assert_close(trajectory.log_prob_BL[:, index].double(), expected_B, rtol=2e-6, atol=1e-3)


def test_every_step_is_the_kernel_s(policy, trajectory):
    for step, std in enumerate(STDS):
        x, step_B = trajectory.states[:, step], torch.full((4,), step)
        with torch.no_grad():
            prediction = policy.network(x, torch.full((4,), TIMES[step]), trajectory.conditioning)
        mean = float(KERNEL.x_T[step]) * x + float(KERNEL.prediction_T[step]) * prediction
        gaussian = KERNEL.gaussian(x, prediction, step_B)
        torch.testing.assert_close(gaussian.mean, mean)
        torch.testing.assert_close(gaussian.std_B, torch.full((4,), std))
        assert torch.equal(trajectory.states[:, step + 1], gaussian.mean) == (std == 0)


def test_pairs_belong_to_the_stochastic_steps(trajectory):
    pairs = all_pairs(trajectory)
    assert len(pairs) == 4 * 3
    assert set(zip(pairs.sample_N.tolist(), pairs.step_N.tolist(), strict=True)) == {
        (sample, step) for sample in range(4) for step in STOCHASTIC
    }
    for n, (sample, step) in enumerate(zip(pairs.sample_N.tolist(), pairs.step_N.tolist(), strict=True)):
        assert pairs.time_N[n] == TIMES[step]
        assert torch.equal(pairs.state_N[n], trajectory.states[sample, step])
        assert torch.equal(pairs.next_state_N[n], trajectory.states[sample, step + 1])
        assert torch.equal(pairs.mean_N[n], trajectory.means[sample, STOCHASTIC.index(step)])
        assert pairs.log_prob_N[n] == trajectory.log_prob_BL[sample, STOCHASTIC.index(step)]
    assert pairs.stretch_N(5).tolist() == [1 + index for index in pairs.index_N.tolist()]


def test_replay_of_shuffled_pairs_has_ratio_1(policy, trajectory):
    for part in all_pairs(trajectory).split(4):  # four rows, as in the rollout
        replayed = replay(policy, part)
        assert torch.equal(importance_ratio(replayed.log_prob_N, part.log_prob_N), torch.ones(4))
        assert torch.equal(replayed.kl_N, torch.zeros(4))


def test_a_kernel_without_a_stochastic_step_is_refused():
    with pytest.raises(ConfigError, match="every step of this kernel is deterministic"):
        Kernel(torch.tensor([9, 3]), column(1, 1), column(1, 1), column(0, 0))


@pytest.mark.parametrize("name", ["time_T", "x_T", "prediction_T", "std_T"])
def test_columns_of_unequal_length_are_refused(name):
    columns = {column: getattr(KERNEL, column) for column in ("time_T", "x_T", "prediction_T", "std_T")}
    with pytest.raises(ConfigError, match=r"must be of one length \(T,\), not \[\(5,\), \(6,\)\]"):
        Kernel(**columns | {name: columns[name][:5]})
    with pytest.raises(ConfigError, match="must be of one length"):
        Kernel(**{name: column[None] for name, column in columns.items()})


def test_an_untrained_schedule_ends_at_clean_samples():
    schedule = VariancePreserving.cosine(1000)
    kernel = ddim(schedule, 10)
    assert kernel.time_T[0] == 999
    assert kernel.stochastic_L.tolist() == list(range(9))
    torch.testing.assert_close(ancestral(schedule, 10).x_T, kernel.x_T, rtol=1e-9, atol=1e-9)
