"""A flow-matching policy learns by every kind of algorithm: points in the plane, as in `examples/own_policy.py`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from quiet_runs import train

from ddpo.config import load_config
from ddpo.core.flow import RectifiedFlow
from ddpo.policies import NetworkPolicy

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from own_policy import Denoiser, Points, near_target


class FlowPoints(Points):
    def __init__(self, settings):
        flow = RectifiedFlow()
        NetworkPolicy.__init__(self, Denoiser(64), settings.kernel(flow), flow, (2,), settings.device)


@pytest.mark.parametrize(
    "algorithm",
    [
        {"sampler": {"name": "flow-sde", "steps": 10}, "iterations": 25},
        {"sampler": {"name": "flow-ddim", "steps": 10, "window": [0, 5]}, "iterations": 25},
        {
            "sampler": {"name": "flow-sde", "steps": 10},
            "algorithm": {"name": "rwr", "beta": 2.0, "samples_per_update": 256},
            "updates_per_iteration": 60,
            "iterations": 4,
        },
    ],
    ids=["sde", "ddim-window", "rwr"],
)
def test_reward_rises(tmp_path, algorithm):
    settings = {"prompts": "none", "output": tmp_path / "run", "threads": 1, "device": "cpu", "precision": "fp32"}
    config = load_config(None, settings=settings | algorithm, defaults=Points.defaults)
    result = train(config, policy=FlowPoints, reward=near_target)
    rewards = [row["reward/mean"] for row in result.metrics]
    assert max(row.get("ratio/max_error_at_start", 0.0) for row in result.metrics) <= 1e-6
    assert rewards[-1] - rewards[0] > 10 * result.metrics[0]["reward/standard_error"]
