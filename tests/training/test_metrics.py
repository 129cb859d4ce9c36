"""What an algorithm's loss measures is logged, whatever it is called and whether it is one number or one a pair."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from iterations import all_metrics, trainer_of

from ddpo.algorithms import DDPOScoreFunction, PolicyGradient
from ddpo.core.rollout import replay
from ddpo.runtime.errors import DivergenceError, ReplayError

SETTINGS = {
    "samples_per_iteration": 6,
    "batch_size": 5,
    "iterations": 2,
    "updates_per_iteration": 1,
    "advantage": "batch",
    "learning_rate": 1e-2,
}
STEPS = 4


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
