"""What an algorithm's loss measures is logged, whatever it is called and whether it is one number or one a pair."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from iterations import all_metrics, trainer_of

from ddpo.algorithms import DDPOScoreFunction, PolicyGradient
from ddpo.core.conditioning import Conditioning
from ddpo.core.kernel import Kernel
from ddpo.core.rollout import replay
from ddpo.core.trajectory import Pairs, Trajectory
from ddpo.runtime.errors import DivergenceError, ReplayError
from ddpo.training.metrics import PairMetrics, averages

SETTINGS = {
    "samples_per_iteration": 6,
    "batch_size": 5,
    "iterations": 2,
    "updates_per_iteration": 1,
    "advantage": "batch",
    "learning_rate": 1e-2,
}
STEPS = 4
ONE = torch.ones(1, dtype=torch.float64)
KERNEL = Kernel(torch.tensor([900]), ONE, ONE, ONE)


class Measuring(PolicyGradient):
    """The score function, with metrics of its own and without an importance ratio."""

    name: str = f"{__file__}:Measuring"
    ratio: float | None = None
    broken: bool = False

    def loss(self, policy, batch):
        log_prob_N = replay(policy, batch).log_prob_N
        metrics = {
            "mine/step": batch.index_N.float(),
            "mine/pairs": torch.tensor(float(len(batch))),
            "mine/number": 7,
        }
        if self.ratio is not None:
            metrics["ratio"] = torch.full((len(batch),), self.ratio)
        if self.broken:
            metrics["mine/step"] = torch.full((len(batch),), torch.nan)
        return -(batch.advantage_N * log_prob_N).mean(), metrics

    def ratio_tolerance(self, dimensions):
        return 0.5


def brightness(images, prompts, metadata):
    return images.mean((1, 2, 3))


@pytest.fixture
def trained(conv_policy, ddim_config):
    """Train a policy with `Measuring` and return it with the metrics."""

    def train(**settings):
        policy = conv_policy(ddim_config(), steps=STEPS)
        algorithm = {"name": f"{__file__}:Measuring", **settings}
        return policy, all_metrics(trainer_of(policy, brightness, ["a cat"], SETTINGS | {"algorithm": algorithm}))

    return train


def test_every_metric_of_a_loss_is_averaged_over_its_pairs_and_by_stretch(trained):
    # 6 samples of 4 steps: 24 pairs, in passes of 5, 5, 5, 5 and 4. Fewer steps than stretches: one of each.
    _, rows = trained()
    for metrics in rows:
        assert metrics["mine/number"] == 7
        assert metrics["mine/pairs"] == pytest.approx((4 * 5 * 5 + 4 * 4) / 24)
        assert metrics["mine/step"] == (STEPS - 1) / 2
        for step in range(STEPS):
            assert metrics[f"mine/step/bucket_{step + 1}"] == step
            assert metrics[f"mine/number/bucket_{step + 1}"] == 7
        assert not any(key.startswith(("ratio", "loss")) for key in metrics)


def test_an_algorithm_without_a_ratio_trains(trained, conv_policy, ddim_config):
    policy, rows = trained()
    assert all(np.isfinite(list(metrics.values())).all() and metrics["gradient_norm"] > 0 for metrics in rows)
    fresh = conv_policy(ddim_config(), steps=STEPS)
    changed = [not torch.equal(*pair) for pair in zip(policy.parameters(), fresh.parameters(), strict=True)]
    assert all(changed)
    built_in = conv_policy(ddim_config(), steps=STEPS)  # the same loss by its name, which also has a ratio
    algorithm = DDPOScoreFunction(log_prob="sum").model_dump()
    all_metrics(trainer_of(built_in, brightness, ["a cat"], SETTINGS | {"algorithm": algorithm}))
    for ours, theirs in zip(policy.parameters(), built_in.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_ratio_is_what_replay_is_checked_by(trained):
    assert trained(ratio=1.25)[1][0]["ratio/max_error_at_start"] == 0.25
    with pytest.raises(ReplayError, match=r"timestep \d+ \(step \d of 4\) is off by 0.75, above 0.5"):
        trained(ratio=1.75)


def test_a_metric_that_is_no_number_stops_the_run(trained):
    with pytest.raises(DivergenceError, match=r"the loss is not finite for sample \d, prompt 'a cat', at timestep"):
        trained(broken=True)


def test_metrics_are_averaged_over_all_updates():
    # Each sum counts as often as it has pairs: (1 + 2 + 3 + 6 + 6) / 5, not the mean of means, nor the last update's.
    assert averages([("kl", 6.0, 3), ("other", 1.0, 1), ("kl", 12.0, 2)]) == {"kl": 18 / 5, "other": 1.0}


def test_a_ratio_that_is_no_number_is_as_wrong_as_can_be():
    pairs = PairMetrics()
    stretch = torch.zeros(3, dtype=torch.int64)
    trajectory = Trajectory(KERNEL, Conditioning.none(3), torch.zeros(3, 2, 1), torch.zeros(3, 1, 1), torch.zeros(3, 1))
    pairs.add(Pairs(trajectory, torch.arange(3), stretch, torch.zeros(3)), {"ratio": torch.tensor([1.5, torch.nan, 1])})
    [(error, time, bucket)] = pairs.largest_ratio_errors()
    assert (error, time, bucket) == (np.inf, 900.0, 1)
