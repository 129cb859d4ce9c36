"""What a checkpoint gives back to a fresh trainer: weights, moments, state, batch size, and how far the run is."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from iterations import trainer_of

from ddpo.runs.checkpoints import Checkpoints
from ddpo.training.checkpointing import Checkpointer

SETTINGS = {
    "samples_per_iteration": 6,
    "batch_size": 4,
    "iterations": 3,
    "updates_per_iteration": 1,
    "advantage": {"buffer_size": 4, "min_count": 2},
    "algorithm": "ddpo-sf",
    "learning_rate": 1e-2,
}


def brightness(images, prompts, metadata):
    return images.mean((1, 2, 3))


@pytest.fixture
def fresh(conv_policy, ddim_config):
    return lambda: trainer_of(
        conv_policy(ddim_config(), steps=3), brightness, ["a cat", "an owl", "an elephant", "a whale"], SETTINGS
    )


@pytest.fixture
def saved_and_restored(fresh, tmp_path):
    """Save a trainer and put the checkpoint into a fresh one."""

    def through(trainer):
        checkpoints = Checkpoints(tmp_path)
        Checkpointer(trainer, checkpoints, trainer.config).save()
        checkpoint, other = checkpoints.get(), fresh()
        Checkpointer(other, checkpoints, other.config).restore(checkpoint, checkpoint.state())
        return other

    return through


def test_everything_that_the_next_iteration_depends_on_comes_back(fresh, saved_and_restored):
    trainer = fresh()
    list(islice(trainer.train(lambda *_: None), 2))
    other = saved_and_restored(trainer)
    assert other.finished == 2
    assert {prompt: list(rewards) for prompt, rewards in trainer.state["rewards"].items()} == other.state["rewards"]
    for ours, theirs in zip(trainer.parameters, other.parameters, strict=True):
        assert torch.equal(ours, theirs)
        was, now = trainer.optimizer.state[ours], other.optimizer.state[theirs]
        assert was.keys() == now.keys() >= {"exp_avg", "exp_avg_sq", "step"}
        assert all(torch.equal(was[name], now[name]) for name in was)
        assert was["exp_avg"].any()
    rows = [next(one.train(lambda *_: None)) for one in (trainer, other)]
    assert rows[0]["iteration"] == 3
    times = {name for name in rows[0] if name.startswith("time/")}
    assert {name: rows[0][name] for name in rows[0].keys() - times} == {
        name: rows[1][name] for name in rows[1].keys() - times
    }


def test_batches_stay_as_small_as_they_had_to_become(fresh, saved_and_restored):
    trainer = fresh()
    trainer.coordinator.batch_size = 2  # four did not fit the memory
    assert saved_and_restored(trainer).coordinator.batch_size == 2
    trainer.coordinator.batch_size = 16  # saved where there was more of it
    assert saved_and_restored(trainer).coordinator.batch_size == 4


@pytest.mark.parametrize("phase", ["reward", "update"])
def test_an_iteration_in_the_making_comes_back_with_its_credit_and_prompts(fresh, saved_and_restored, phase):
    def until(name, done, total):
        if name == phase and done in (0, 6):  # once all are scored, or before the first update
            raise KeyboardInterrupt

    trainer = fresh()
    with pytest.raises(KeyboardInterrupt):
        next(trainer.train(until))
    iteration = trainer.iteration
    assert len(iteration.parts) == (2 if phase == "reward" else 1)
    assert (iteration.credit_S is None) == (phase == "reward")
    other = saved_and_restored(trainer)
    assert other.finished == 0
    np.testing.assert_array_equal(other.iteration.credit_S, iteration.credit_S)
    assert other.iteration.scores == iteration.scores
    ours, theirs = iteration.trajectory(), other.iteration.trajectory()
    assert torch.equal(ours.states, theirs.states)
    assert torch.equal(ours.conditioning["scale"], theirs.conditioning["scale"])
    scale_B = ours.conditioning["scale"]  # prompts of two lengths, and not the same in both parts
    assert not torch.equal(scale_B[4:], scale_B[:2])
