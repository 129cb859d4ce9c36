"""Training on rewards made of rewards: what is logged, what is measured, and that processes and parts do not matter."""

from __future__ import annotations

import json

import numpy as np
import pytest
from quiet_runs import train
from test_distributed import in_two_processes

from ddpo.config import load_config

RANKED = {
    "name": "sum",
    "rewards": [
        {"name": "jpeg-compressibility", "normalise": "rank", "weight": 3},
        {"name": "my.py:redness", "normalise": "z-score"},
    ],
}


@pytest.fixture
def ranked(tmp_path, monkeypatch):
    """Return `RANKED`, whose file lies in the working folder."""
    (tmp_path / "my.py").write_text("def redness(images, prompts, metadata):\n    return images[:, 0].mean((1, 2))\n")
    monkeypatch.chdir(tmp_path)
    return RANKED


def rewards_of(metrics):
    return {key: value for key, value in metrics.items() if key.startswith(("reward/", "evaluation/"))}


def test_components_are_logged_and_measured_and_the_sum_is_theirs(tiny_config, request):
    components = {"jpeg-compressibility": 0.5, "jpeg-incompressibility": 10}
    result = train(tiny_config(reward=components))
    for metrics in result.metrics:
        # 0.5 * -size + 10 * size
        size = metrics["reward/jpeg-incompressibility/mean"]
        assert metrics["reward/jpeg-compressibility/mean"] == pytest.approx(-size)
        assert metrics["reward/mean"] == pytest.approx(9.5 * size)
        std = metrics["reward/jpeg-incompressibility/std"]
        assert metrics["reward/jpeg-compressibility/std"] == pytest.approx(std)
        assert metrics["reward/std"] == pytest.approx(9.5 * std)
        assert metrics["evaluation/sum/mean"] == pytest.approx(9.5 * metrics["evaluation/jpeg-incompressibility/mean"])
    assert list(result.labels) == ["sum", *components]
    record = json.loads(result.folder.sample_files(2).record.read_text())
    assert record["trained_reward"] == "sum"
    assert list(record["samples"][0]["rewards"]) == ["sum", *components]
    assert record["labels"]["sum"] == "0.5 jpeg-compressibility + 10 jpeg-incompressibility"
    text = (request.config.rootpath / "docs" / "metrics.md").read_text()
    assert "`reward/COMPONENT/mean`, `reward/COMPONENT/std`" in text


def test_a_plain_reward_has_no_components(tiny_config):
    assert not [key for key in train(tiny_config(iterations=1)).metrics[0] if key.startswith("reward/jpeg")]


def test_ranks_are_those_of_the_iteration_however_it_is_scored(tiny_config, tmp_path, ranked):
    # One process in one part, one process in parts of 4 samples, and two processes: the same samples, so the same
    # spread of ranks and z-scores. Normalised over each part of 4, the ranks would be 1/8 ... 7/8 instead of 1/16 ...
    settings = {"reward": ranked, "updates_per_iteration": 1, "lora": {"rank": 2}, "iterations": 1}
    alone = train(tiny_config(**settings, batch_size=8))
    in_parts = train(tiny_config(**settings, batch_size=4, output=tmp_path / "parts"))
    together = in_two_processes(alone.folder.config, tmp_path)[0]["metrics"]
    for other in (in_parts.metrics, together):
        expected = rewards_of(alone.metrics[0])
        assert expected["reward/mean"] == pytest.approx(1.5)  # 3 times the mean rank, and the mean z-score, 0
        for key, value in expected.items():
            np.testing.assert_allclose(other[0][key], value, rtol=2e-3, atol=1e-6, err_msg=key)


def test_the_saved_configuration_repeats_it_from_another_folder(tiny_config, tmp_path, monkeypatch, ranked):
    measured = {"number": 2, "every": 1, "rewards": [{"name": "clip", "reward": "my.py:redness", "low": 0.5}]}
    first = train(tiny_config(reward=ranked, evaluation=measured))
    # before training the fixed samples are normalised over themselves: mean ranks of 1/2, mean z-scores of 0
    assert first.before.means["sum"] == pytest.approx(1.5)
    assert first.after.means["clip"] >= 0.5
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = train(load_config(first.folder.config, ["output=again"]))
    assert [rewards_of(metrics) for metrics in again.metrics] == [rewards_of(metrics) for metrics in first.metrics]


def test_python_functions_in_a_combination_are_recorded(tiny_config):
    result = train(tiny_config(iterations=1), reward={brightness: 2, "jpeg-compressibility": 1})
    assert load_config(result.folder.config).reward == {f"{__file__}:brightness": 2, "jpeg-compressibility": 1}


def brightness(images, prompts, metadata):
    return images.mean((1, 2, 3))
