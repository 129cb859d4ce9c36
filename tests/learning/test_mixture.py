"""All four algorithms on a policy whose optimum is known: `mixture.py`."""

from __future__ import annotations

import math

import pytest
import torch
from mixture import MODES, SPREAD, MixturePolicy, position, tilted_mean, tilted_share

from ddpo.config import parse_config
from ddpo.core.conditioning import Conditioning
from ddpo.core.rollout import rollout
from ddpo.prompts import from_list
from ddpo.rewards import load_reward
from ddpo.runtime.processes import Runtime
from ddpo.training.trainer import Trainer

SETTINGS = {
    "ddpo-is": {"algorithm": {"name": "ddpo-is", "clip_nats": 0.2}, "iterations": 10, "learning_rate": 3e-2},
    "ddpo-sf": {"algorithm": "ddpo-sf", "iterations": 20, "learning_rate": 1e-1},
    "rwr": {"algorithm": {"name": "rwr", "beta": 0.5}, "iterations": 3, "updates_per_iteration": 100},
    "rwr-sparse": {
        "algorithm": {"name": "rwr-sparse", "percentile": 0.5},
        "iterations": 3,
        "updates_per_iteration": 100,
    },
}


def trained(**settings):
    """Return the policy after training it to go up, and the metrics of the iterations."""
    tree = {
        "prompts": ["a number"],
        "samples_per_iteration": 1024,
        "batch_size": 1024,
        "learning_rate": 2e-2,
        "optimizer": {"weight_decay": 0.0},
        "advantage": "batch",
        "device": "cpu",
        "threads": 1,
    }
    config = parse_config(tree | settings)
    policy = MixturePolicy()
    runtime = Runtime(device="cpu", threads=1)
    trainer = Trainer(config, policy, load_reward(position), from_list(["a number"]), runtime)
    return policy, list(trainer.train(lambda *_: None))


def drawn(policy, number=4_000):
    return rollout(policy, Conditioning.none(number), range(10**6, 10**6 + number), batch_size=number).final[:, 0]


def test_the_toy_draws_the_mixture():
    x = drawn(MixturePolicy())
    assert (x > 0).float().mean().item() == pytest.approx(0.5, abs=0.03)
    for mode, side in zip(MODES, (x < 0, x > 0), strict=True):
        assert x[side].mean().item() == pytest.approx(mode, abs=0.08)  # 20 steps are few
        assert x[side].std().item() == pytest.approx(SPREAD, abs=0.05)


@pytest.mark.parametrize("algorithm", SETTINGS)
def test_every_algorithm_raises_the_reward(algorithm):
    before = drawn(MixturePolicy())
    policy, _ = trained(**SETTINGS[algorithm])
    after = drawn(policy)
    error = math.hypot(before.std(), after.std()) / math.sqrt(len(before))
    assert after.mean() - before.mean() > 10 * error
    assert torch.isfinite(after).all()


@pytest.mark.parametrize("beta", [0.3, 0.8])
def test_one_round_of_rwr_is_the_kl_regularised_optimum(beta):
    policy, metrics = trained(
        algorithm={"name": "rwr", "beta": beta, "reweighting": "dataset", "samples_per_update": 1024},
        iterations=1,
        samples_per_iteration=8192,
        updates_per_iteration=800,
        learning_rate=5e-3,
    )
    x = drawn(policy)
    assert (x > 0).float().mean().item() == pytest.approx(tilted_share(beta), abs=0.03)
    assert x.mean().item() == pytest.approx(tilted_mean(beta), abs=0.06)
    assert metrics[0]["weight/kept"] == 1
    # Kish with weights exp(beta x): E[w]^2 / E[w^2], over the two Gaussians
    mean, square = (math.cosh(b) * math.exp(b * b * SPREAD**2 / 2) for b in (beta, 2 * beta))
    assert metrics[0]["weight/effective_samples"] / 8192 == pytest.approx(mean**2 / square, rel=0.05)


@pytest.mark.parametrize("fresh", [True, False])
def test_the_optimizer_starts_anew_each_iteration_if_told_to(fresh):
    config = parse_config(
        {
            "algorithm": {"name": "rwr", "samples_per_update": 64, "fresh_optimizer": fresh},
            "samples_per_iteration": 64,
            "updates_per_iteration": 3,
            "iterations": 2,
            "batch_size": 64,
        }
    )
    policy = MixturePolicy()
    trainer = Trainer(config, policy, load_reward(position), from_list(["a"]), Runtime(device="cpu", threads=1))
    list(trainer.train(lambda *_: None))
    assert trainer.optimizer.state[policy.weights]["step"].item() == (3 if fresh else 6)
