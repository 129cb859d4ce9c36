"""What goes wrong in a run ends it with a clear error, and nothing is trained on bad numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from quiet_runs import train
from safetensors.torch import load_file

from ddpo.core.trajectory import Trajectory
from ddpo.policies.stable_diffusion import StableDiffusionPolicy
from ddpo.runs.folder import RunFolder
from ddpo.runtime.errors import DivergenceError, ReplayError, RewardError, RunFolderError


def failing(kind, at_call):
    """Return a reward that works until its `at_call`-th call."""
    calls = []

    def reward(images, prompts, metadata):
        calls.append(1)
        scores = np.arange(len(prompts), dtype=float)
        if len(calls) < at_call:
            return scores
        if kind == "raises":
            raise ZeroDivisionError("the reward's own fault")
        if kind == "short":
            return scores[:-1]
        scores[2 % len(scores)] = {"nan": np.nan, "inf": np.inf}[kind]
        return scores

    return reward


@pytest.mark.parametrize(
    ("kind", "message"),
    [("nan", "nan for sample"), ("inf", "inf for sample"), ("short", "shape"), ("raises", "the reward's own fault")],
)
def test_a_bad_reward_stops_before_anything_is_trained_on_it(tiny_config, kind, message, monkeypatch):
    steps = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, *a, **k: steps.append(1) or step(self, *a, **k))
    with pytest.raises(RewardError, match=message) as raised:
        train(tiny_config(), reward=failing(kind, at_call=2))  # call 1 scores the fixed samples
    assert "reward" in str(raised.value)
    assert not steps


def test_a_replay_that_differs_stops_the_run_and_names_the_timestep(tiny_config, monkeypatch):
    concatenate = Trajectory.concatenate

    def corrupted(parts):
        trajectory = concatenate(parts)
        trajectory.log_prob_BL[:, 1] += 3.0
        return trajectory

    monkeypatch.setattr(Trajectory, "concatenate", staticmethod(corrupted))
    with pytest.raises(ReplayError, match="timestep 501 "):  # 4 steps of 250 with offset 1: 751, 501, 251, 1
        train(tiny_config())


def test_a_gradient_that_is_not_finite_changes_no_weight(tiny_config, monkeypatch):
    config = tiny_config()
    policies = []
    load = StableDiffusionPolicy.from_source

    def kept(*arguments, **options):
        policies.append(load(*arguments, **options))
        return policies[-1]

    monkeypatch.setattr(StableDiffusionPolicy, "from_source", kept)
    monkeypatch.setattr(type(config.algorithm), "loss", lambda self, policy, batch: _nan_loss(policy, batch))
    with pytest.raises(DivergenceError, match="not finite"):
        train(config)
    before = load_file(f"{config.model.name}/unet/diffusion_pytorch_model.safetensors")
    after = policies[0].pipeline.unet.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def _nan_loss(policy, batch):
    ones_N = torch.ones(len(batch))
    loss = sum(parameter.sum() for parameter in policy.parameters()) * float("nan")
    return loss, {"ratio": ones_N, "clip_fraction": 0 * ones_N, "kl/step": 0 * ones_N}


def test_a_filled_output_folder_is_never_touched(tiny_config, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="not empty"):
        train(tiny_config())
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["precious.txt"]


def test_a_model_that_cannot_be_loaded_leaves_no_run_folder(tiny_config, tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}')
    with pytest.raises(Exception, match="StableDiffusionXLPipeline"):
        train(tiny_config(model=str(tmp_path)))
    assert not (tmp_path / "run").exists()


def test_a_reward_that_fails_at_once_leaves_no_run_folder(tiny_config, tmp_path):
    with pytest.raises(RewardError):
        train(tiny_config(), reward=failing("nan", at_call=1))
    assert not (tmp_path / "run").exists()


def test_a_reward_that_fails_later_loses_nothing_trained_before(tiny_config, tmp_path):
    config = tiny_config(evaluation={"number": 2, "every": None})
    with pytest.raises(RewardError):
        train(
            config, reward=failing("raises", at_call=4)
        )  # calls: fixed samples, two batches of iteration 1, iteration 2
    folder = RunFolder.open(tmp_path / "run")
    assert len(folder.read_metrics()) == 1
    assert (folder.model / "diffusion_pytorch_model.safetensors").is_file()


def test_a_reward_that_is_only_measured_may_fail(tiny_config):
    config = tiny_config(prompts=["a house"], evaluation={"number": 2, "rewards": ["judge-recognition"]})
    result = train(config)
    assert list(result.labels) == ["jpeg-compressibility"]
    assert list(result.after.scores) == ["jpeg-compressibility"]
