"""A run from configuration to run folder: reproducible, complete, and learning."""

from __future__ import annotations

import itertools
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from quiet_runs import train
from safetensors.torch import load_file
from tiny_run import Signalling

from ddpo.config import TrainConfig, load_config, recipes
from ddpo.prompts import load_prompts
from ddpo.rewards import load_reward
from ddpo.runs.checkpoints import Checkpoints
from ddpo.runs.folder import RunFolder
from ddpo.runtime.errors import ConfigError, RewardError, RunFolderError
from ddpo.runtime.processes import Runtime
from ddpo.training import run
from ddpo.training.metrics import PairMetrics


def brightness(images, prompts, metadata):
    """Mean brightness, (B,)."""
    return images.mean(axis=(1, 2, 3))


def without_times(metrics):
    return [{k: v for k, v in entry.items() if not k.startswith("time/")} for entry in metrics]


def test_the_run_folder_holds_everything(tiny_config):
    result = train(tiny_config(evaluation={"number": 2, "every": 1, "rewards": ["jpeg-incompressibility"]}))
    folder = result.folder
    names = {path.name for path in folder.path.iterdir()}
    assert names == {
        *(".lock", "before-after.png", "checkpoints", "config.yaml", "curve.png", "metrics.jsonl", "model"),
        *("report.html", "samples"),
    }
    assert sorted(path.name for path in folder.samples.iterdir()) == [
        f"iteration-{i:06d}{kind}" for i in range(3) for kind in ("-tiles.png", ".json", ".png")
    ]
    assert folder.read_metrics() == result.metrics
    record = json.loads(folder.sample_files(2).record.read_text())
    assert [sample["prompt"] for sample in record["samples"]] == ["a cat", "a dog"]
    assert set(record["samples"][0]["rewards"]) == {"jpeg-compressibility", "jpeg-incompressibility"}
    for picture in (folder.curve, folder.before_after, folder.sample_files(0).grid):
        assert min(Image.open(picture).size) > 16


def test_a_regression_has_metrics_of_its_own_and_trains_again_the_same(tiny_config, tmp_path):
    settings = {
        "algorithm": {"name": "rwr-sparse", "samples_per_update": 4, "percentile": 0.5},
        "updates_per_iteration": 3,
    }
    first = train(tiny_config(samples_per_prompt=4, **settings))
    own = {"weight/kept", "weight/effective_samples", "denoising_loss", "denoising_loss/bucket_1", "gradient_norm"}
    assert own <= set(first.metrics[0])
    assert not {"ratio/max_error_at_start", "clip_fraction", "kl/step"} & set(first.metrics[0])
    assert first.metrics[0]["weight/kept"] == 0.5
    again = train(load_config(first.folder.config, [f"output={tmp_path / 'again'}"]))
    assert without_times(first.metrics) == without_times(again.metrics)


@pytest.mark.parametrize("algorithm", ["ddpo-is", "ddpo-sf"])
def test_metrics_have_the_promised_names(tiny_config, algorithm):
    metrics = train(tiny_config(algorithm=algorithm)).metrics
    promised = {
        "iteration", "reward_queries", "reward/mean", "reward/std", "reward/standard_error",
        "ratio/max_error_at_start", "clip_fraction", "kl/step", "gradient_norm",
        "time/rollout", "time/reward", "time/update",
    }  # fmt: skip
    assert promised <= set(metrics[0])
    assert [m["iteration"] for m in metrics] == [1, 2]
    assert [m["reward_queries"] for m in metrics] == [8, 16]


def test_every_metric_is_explained(tiny_config, tmp_path, request):
    text = (request.config.rootpath / "docs" / "metrics.md").read_text()
    result = train(tiny_config(evaluation={"number": 2, "every": 1, "kl_to_base": True}))
    for name in {key for metrics in result.metrics for key in metrics}:
        known = name.replace("jpeg-compressibility", "NAME")
        known = known.rsplit("/bucket_", 1)[0] if "/bucket_" in known else known
        assert f"`{known}" in text, name


@pytest.mark.parametrize("rank", [None, 2])
def test_the_saved_configuration_repeats_the_run_bit_for_bit(tiny_config, tmp_path, rank):
    first = train(tiny_config(lora={"rank": rank}, inner_epochs=2, timestep_fraction=0.5))
    config = load_config(first.folder.config, [f"output={tmp_path / 'again'}"])
    second = train(config)
    assert without_times(first.metrics) == without_times(second.metrics)
    weights = [next(result.folder.model.glob("*.safetensors")) for result in (first, second)]
    tensors = [load_file(path) for path in weights]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


def test_a_python_reward_and_prompts_are_recorded(tiny_config, tmp_path):
    config = tiny_config(iterations=1)
    first = train(config, reward=brightness, prompts=load_prompts(["a cow", {"prompt": "a pig", "animal": "pig"}]))
    repeated = load_config(first.folder.config, [f"output={tmp_path / 'again'}"])
    assert repeated.reward == f"{Path(__file__).resolve()}:brightness"
    assert repeated.prompts == [{"prompt": "a cow"}, {"prompt": "a pig", "animal": "pig"}]
    assert without_times(train(repeated).metrics) == without_times(first.metrics)
    local = train(config.model_copy(update={"output": tmp_path / "local"}), reward=lambda i, p, m: i.mean((1, 2, 3)))
    with pytest.raises(RewardError, match="a Python object"):
        load_reward(load_config(local.folder.config).reward)


def test_the_reward_trained_is_the_reward_evaluated(tiny_config):
    # two rewards of one name: what is trained wins over what is only measured
    config = tiny_config(
        iterations=1,
        reward={"name": "jpeg-compressibility", "quality": 20},
        evaluation={"number": 2, "rewards": ["jpeg-compressibility"]},
    )
    result = train(config)
    plain = train(config.model_copy(update={"reward": "jpeg-compressibility", "output": config.output / "plain"}))
    assert result.before.means["jpeg-compressibility"] > plain.before.means["jpeg-compressibility"]


def test_another_seed_gives_another_run(tiny_config, tmp_path):
    first, second = train(tiny_config()), train(tiny_config(seed=1, output=tmp_path / "other"))
    assert first.metrics[0]["reward/mean"] != second.metrics[0]["reward/mean"]


@pytest.mark.parametrize("algorithm", ["ddpo-is", "ddpo-sf"])
def test_a_python_reward_rises(tiny_config, algorithm):
    settings = {"name": algorithm} | ({"clip_nats": 1.64} if algorithm == "ddpo-is" else {})
    config = tiny_config(
        algorithm=settings,
        prompts=["a cat"],
        iterations=10,
        samples_per_iteration=128 if algorithm == "ddpo-is" else 32,  # four updates share the samples
        batch_size=32,
        learning_rate=1e-3 if algorithm == "ddpo-is" else 3e-3,
        guidance_scale=1.0,
        evaluation={"number": 16, "every": None},
    )
    result = train(config, reward=brightness)
    rewards = np.array([m["reward/mean"] for m in result.metrics])
    errors = np.array([m["reward/standard_error"] for m in result.metrics])
    first, last = slice(0, 3), slice(-3, None)
    error = np.sqrt((errors[first] ** 2).sum() + (errors[last] ** 2).sum()) / 3
    assert rewards[last].mean() - rewards[first].mean() > 3 * error
    assert result.after.means["brightness"] > result.before.means["brightness"]


@pytest.mark.parametrize("advantage", ["batch", "group", "leave-one-out"])
def test_other_advantages_train(tiny_config, advantage):
    config = tiny_config(advantage=advantage, samples_per_prompt=4)
    assert len(train(config).metrics) == 2


def test_a_short_last_batch_trains(tiny_config):
    result = train(tiny_config(samples_per_iteration=12, batch_size=8, updates_per_iteration=2))
    assert all(m["ratio/max_error_at_start"] <= 1e-5 for m in result.metrics)


def test_constant_rewards_change_nothing_but_weight_decay(tiny_config, tiny_pipeline):
    config = tiny_config(optimizer={"weight_decay": 0.0})
    result = train(config, reward=lambda images, prompts, metadata: np.ones(len(prompts)))
    after = load_file(result.folder.model / "diffusion_pytorch_model.safetensors")
    before = load_file(tiny_pipeline() / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("recipe", "algorithm"),
    [
        *((name, "ddpo-is") for name, _ in recipes()),
        *itertools.product(["compressibility", "emoji-judge"], ["ddpo-sf", "rwr", "rwr-sparse"]),
        ("compressibility-lora", "rwr"),
    ],
)
def test_every_recipe_trains_two_iterations(recipe, algorithm, tiny_pipeline, tmp_path):
    updates = [] if algorithm.startswith("ddpo") else ["updates_per_iteration=2", "algorithm.samples_per_update=8"]
    config = load_config(
        recipe,
        [
            f"algorithm={algorithm}", *updates,
            f"model={tiny_pipeline()}", f"output={tmp_path / 'run'}", "iterations=2", "samples_per_iteration=8",
            "batch_size=8", "sampler.steps=4", "evaluation.number=2", "device=cpu", "threads=1", "precision=fp32",
        ],
    )  # fmt: skip
    reward = None if str(config.reward).startswith("jpeg") else brightness
    config = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"rewards": []})})
    assert len(train(config, reward=reward).metrics) == 2


def test_python_users_get_the_same_from_the_package():
    import ddpo

    assert ddpo.TrainConfig is TrainConfig
    assert ddpo.train is run.train
    assert ddpo.resume is run.resume
    assert issubclass(ConfigError, ddpo.DDPOError)


def test_interrupting_saves_the_model(tiny_config):
    calls = []

    def interrupted(images, prompts, metadata):
        calls.append(1)
        if len(calls) == 5:  # fixed samples, two batches of iteration 1, fixed samples, iteration 2
            os.kill(os.getpid(), signal.SIGINT)
        return images.mean(axis=(1, 2, 3))

    result = train(tiny_config(), reward=interrupted)
    assert result.interrupted.exit_code == 130
    assert len(result.metrics) == 1
    assert RunFolder.open(result.folder.path).model.is_dir()


def test_a_skipped_update_leaves_metrics_that_are_numbers(tiny_config, monkeypatch):
    add, calls = PairMetrics.add, []

    def broken_once(self, pairs, metrics):
        calls.append(1)
        add(self, pairs, {key: value / 0 * 0 for key, value in metrics.items()} if len(calls) == 1 else metrics)

    monkeypatch.setattr(PairMetrics, "add", broken_once)
    result = train(tiny_config(on_nonfinite="skip", updates_per_iteration=2))
    assert [row["updates_skipped"] for row in result.metrics] == [1, 0]
    assert np.isfinite([row["kl/step"] for row in result.metrics]).all()


def test_a_connection_that_fails_is_no_folder_that_cannot_be_written_and_the_run_is_saved(tiny_config, monkeypatch):
    def track(self, metrics):
        raise ConnectionError("the tracker is gone")

    monkeypatch.setattr(Runtime, "track", track)
    config = tiny_config()
    with pytest.raises(ConnectionError):
        train(config)
    assert Checkpoints(RunFolder(config.output).checkpoints).get().name == "iteration-000001"


def test_a_model_that_cannot_be_written_does_not_hide_the_checkpoint(tiny_config, monkeypatch):
    config, display = tiny_config(evaluation={"number": 2, "every": None}), Signalling("rollout", 3)
    monkeypatch.setattr(
        "ddpo.training.run_loop.save_whole",
        lambda policy, folder: folder.joinpath("no", "such", "folder").write_bytes(b""),
    )
    with pytest.raises(RunFolderError, match="model cannot be written"):
        train(config, display=display)
    assert f"saved iteration-000002-unfinished. Go on with: ddpo resume {config.output}" in display.said[-1]
