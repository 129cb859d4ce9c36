"""`Trajectory` and `Pairs`: indexing, joining, and what they refuse. Values encode their own position."""

from __future__ import annotations

import pytest
import torch

from ddpo.core.conditioning import Conditioning
from ddpo.core.kernel import Kernel
from ddpo.core.trajectory import Pairs, Trajectory

B, T, L = 4, 3, 2
KERNEL = Kernel(torch.tensor([9, 6, 3]), torch.ones(T), torch.ones(T), torch.tensor([0.5, 0.5, 0.0]))
"""Three steps, the last deterministic."""


def value(sample: int, step: int) -> float:
    return 100.0 * sample + step


def build(first: int = 0, number: int = B) -> Trajectory:
    """States hold 100 b + t, means 1000 more, log-probabilities the negative."""
    grid = torch.tensor([[value(first + b, t) for t in range(T + 1)] for b in range(number)])
    states = grid[:, :, None, None].expand(number, T + 1, 2, 3)
    conditioning = Conditioning.of(name=torch.arange(first, first + number), vector=grid[:, :2])
    return Trajectory(KERNEL, conditioning, states.clone(), states[:, :L] + 1000, -grid[:, :L])


def pairs_of(samples: list[int], steps: list[int]) -> Pairs:
    return Pairs(build(), torch.tensor(samples), torch.tensor(steps), torch.tensor([0.5, 1.5, 2.5, 3.5]))


def test_pairs_pick_their_own_sample_and_step():
    samples, steps = [3, 0, 3, 2], [1, 0, 0, 1]
    batch = pairs_of(samples, steps)
    pairs = list(zip(samples, steps, strict=True))
    assert len(batch) == 4
    assert batch.state_N.shape == batch.next_state_N.shape == batch.mean_N.shape == (4, 2, 3)
    for n, (b, t) in enumerate(pairs):
        assert (batch.state_N[n] == value(b, t)).all()
        assert (batch.next_state_N[n] == value(b, t + 1)).all()
        assert (batch.mean_N[n] == value(b, t) + 1000).all()
    assert batch.log_prob_N.tolist() == [-value(b, t) for b, t in pairs]
    assert batch.advantage_N.tolist() == [b + 0.5 for b in samples]
    assert batch.conditioning_N["name"].tolist() == samples
    assert batch.conditioning_N["vector"].tolist() == [[value(b, 0), value(b, 1)] for b in samples]


def test_a_part_is_a_run_of_pairs_that_fills_up_to_its_rows():
    batch = pairs_of([3, 0, 3, 2, 1], [1, 0, 0, 1, 0])
    first, last = batch.split(3)
    assert (first.sample_N.tolist(), first.step_N.tolist()) == ([3, 0, 3], [1, 0, 0])
    assert (last.sample_N.tolist(), last.advantage_N.tolist(), last.rows) == ([2, 1], [2.5, 1.5], 3)
    assert (last.filled().sample_N.tolist(), last.filled().index_N.tolist()) == ([2, 1, 1], [1, 0, 0])
    assert batch.sample_N.tolist() == [3, 0, 3, 2, 1]


def test_parts_give_back_the_whole():
    batch = pairs_of([3, 0, 3, 2, 1], [1, 0, 0, 1, 1])
    parts = list(batch.split(2))
    assert torch.equal(torch.cat([part.state_N for part in parts]), batch.state_N)
    assert torch.equal(torch.cat([part.log_prob_N for part in parts]), batch.log_prob_N)


def test_properties_of_a_trajectory():
    trajectory = build()
    assert len(trajectory) == B
    assert trajectory.dimensions == 6
    assert trajectory.final.shape == (B, 2, 3)
    assert trajectory.final[:, 0, 0].tolist() == [value(b, T) for b in range(B)]


def test_concatenate_joins_samples():
    whole, joined = build(), Trajectory.concatenate([build(0, 1), build(1, 2), build(3, 1)])
    assert torch.equal(joined.states, whole.states)
    assert torch.equal(joined.means, whole.means)
    assert torch.equal(joined.log_prob_BL, whole.log_prob_BL)
    assert set(joined.conditioning) == {"name", "vector"}
    assert all(torch.equal(joined.conditioning[name], whole.conditioning[name]) for name in joined.conditioning)


def test_take_keeps_rows_together():
    part = build().take(slice(1, 3))
    assert part.states[:, 0, 0, 0].tolist() == [value(1, 0), value(2, 0)]
    assert part.means[:, 0, 0, 0].tolist() == [value(1, 0) + 1000, value(2, 0) + 1000]
    assert part.log_prob_BL[:, 0].tolist() == [-value(1, 0), -value(2, 0)]
    assert part.conditioning["name"].tolist() == [1, 2]


def test_without_steps_the_final_samples_are_left_in_memory_of_their_own():
    trajectory = build()
    bare = trajectory.without_steps()
    assert torch.equal(bare.final, trajectory.final)
    assert (bare.states.shape, bare.means.shape, bare.log_prob_BL.shape) == ((B, 1, 2, 3), (B, 0, 2, 3), (B, 0))
    assert bare.states.untyped_storage().nbytes() == bare.final.nbytes
    assert bare.conditioning["name"].tolist() == [0, 1, 2, 3]


def test_values_are_frozen():
    with pytest.raises(AttributeError):
        build().states = torch.zeros(1)
    with pytest.raises(AttributeError):
        pairs_of([0], [0]).index_N = torch.zeros(1)


@pytest.mark.parametrize(
    ("states", "means", "log_prob"),
    [
        ((3, 4, 2), (4, 2, 2), (4, 2)),  # samples of the states
        ((4, 4, 2), (3, 2, 2), (4, 2)),  # samples of the means
        ((4, 4, 2), (4, 3, 2), (4, 2)),  # steps of the means
        ((4, 2, 2), (4, 2, 2), (4, 2)),  # L steps need L + 1 states
    ],
)
def test_inconsistent_trajectories_are_refused(states, means, log_prob):
    with pytest.raises(ValueError, match="inconsistent trajectory"):
        Trajectory(KERNEL, Conditioning.none(4), torch.zeros(states), torch.zeros(means), torch.zeros(log_prob))


def test_inconsistent_pairs_are_refused():
    one, two = torch.zeros(1, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="pairs"):
        Pairs(build(), one, two, torch.zeros(B))
    with pytest.raises(ValueError, match="pairs"):
        Pairs(build(), one[None], one[None], torch.zeros(B))
    with pytest.raises(ValueError, match="advantages"):
        Pairs(build(), one, one, torch.zeros(B + 1))
