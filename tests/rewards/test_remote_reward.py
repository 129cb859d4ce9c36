"""A reward of a server is the reward itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from reward_servers import ScriptedServer, real_server

from ddpo.config import load_config
from ddpo.media import Image
from ddpo.rewards import load_reward, score, to_uint8, without_token
from ddpo.rewards.remote.pictures import open_png, pixels_of, to_png
from ddpo.runtime.errors import RewardError
from ddpo.training.given import Given, repeatable
from ddpo.training.run import train

PROMPTS = ["a cat", "a dog", "a horse", "a cat", "a fox", "a bear", "a rabbit"]
METADATA = [{"animal": prompt.split()[-1]} for prompt in PROMPTS]


@pytest.fixture
def images():
    return torch.rand(len(PROMPTS), 3, 24, 16, generator=torch.Generator().manual_seed(1))


def mean_level(images, prompts, metadata):
    """The mean level of the 8-bit picture, exact whatever the batch."""
    return to_uint8(images.numpy()).mean(axis=(1, 2, 3))


def test_pictures_travel_without_a_change():
    levels = torch.arange(256, dtype=torch.float32).div(255).expand(1, 3, 3, 256)
    pixels = to_uint8(levels.numpy())[0]
    assert pixels[0, :, 0].tolist() == list(range(256))
    assert np.array_equal(pixels_of(open_png(to_png(pixels), 1000)), pixels)


@pytest.mark.parametrize("batch", [2, 32])
@pytest.mark.parametrize("name", ["jpeg-compressibility", "jpeg-incompressibility"])
def test_jpeg_scores_equal_the_local_ones_bit_for_bit(name, batch, images):
    local = load_reward(name)
    with real_server(name) as url:
        remote = load_reward({"name": "remote", "url": url, "batch": batch})
        samples = Image(), images, PROMPTS, METADATA
        assert score(remote, *samples).tolist() == score(local, *samples).tolist()
    assert (remote.key, remote.label) == (local.key, local.label)


@pytest.mark.parametrize("batch", [2, 3, 32])
@pytest.mark.parametrize("metadata", [METADATA, [{}] * len(PROMPTS)])
def test_the_judge_s_scores_equal_the_local_ones_bit_for_bit(metadata, batch, images):
    local = score(load_reward("judge"), Image(), images, PROMPTS, metadata)
    with real_server("judge") as url:
        remote = score(load_reward({"name": "remote", "url": url, "batch": batch}), Image(), images, PROMPTS, metadata)
    assert remote.tolist() == local.tolist()


def test_training_on_a_server_writes_the_metrics_of_training_without_one(served_judge, tmp_path):
    # Of 33 fixed samples one travels alone, and 8 is what the judge sees at once.
    settings = [
        "iterations=2", "samples_per_iteration=16", "sampler.steps=2", "batch_size=16", "threads=1",
        "evaluation={number: 4, every: 2, rewards: [judge-recognition]}",
    ]  # fmt: skip
    metrics, labels = [], []
    for reward in ("judge", served_judge):
        result = train(load_config(None, [f"reward={reward}", *settings, f"output={tmp_path / str(len(metrics))}"]))
        metrics.append((result.folder.path / "metrics.jsonl").read_text().splitlines())
        labels.append(result.labels)
    local, remote = ([without_times(json.loads(line)) for line in lines] for lines in metrics)
    assert remote == local
    assert labels[0] == labels[1]
    assert len(local) == 2
    assert {"reward/mean", "gradient_norm", "evaluation/judge/mean"} <= set(local[1])


@pytest.fixture
def served_judge():
    """The address of `ddpo reward serve judge` in a process of its own."""
    command = [sys.executable, "-m", "ddpo", "reward", "serve", "judge", "--port=0"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            yield server.stdout.readline().split(" at ")[1].split()[0]
        finally:
            server.kill()


def without_times(metrics):
    return {key: value for key, value in metrics.items() if not key.startswith("time/")}


def test_several_servers_share_the_samples(images):
    with ScriptedServer() as first, ScriptedServer() as second:
        reward = load_reward({"name": "remote", "url": [first.url, second.url], "batch": 1})
        many = images.repeat(6, 1, 1, 1)
        scores = score(reward, Image(), many, PROMPTS * 6, METADATA * 6)
        assert first.requests
        assert second.requests
        assert len(first.requests) + len(second.requests) == len(many)
    assert np.array_equal(scores, mean_level(many, [], []))


def test_a_request_holds_no_more_than_the_server_takes(images):
    with ScriptedServer(max_items=3) as server:
        score(load_reward(server.url), Image(), images, PROMPTS, METADATA)
        assert [len(ids) for ids in server.requests] == [3, 3, 1]


def test_no_samples_need_no_request(images):
    with ScriptedServer() as server:
        assert score(load_reward(server.url), Image(), images[:0], [], []).shape == (0,)
        assert not server.requests


def test_a_token_is_sent_and_never_written_down(images, tiny_config, monkeypatch):
    with real_server(mean_level, token="sesame") as url:
        with pytest.raises(RewardError, match=r"refuses the token.*DDPO_REWARD_TOKEN"):
            load_reward(url)
        spec = {"name": "remote", "url": url, "token": "sesame"}
        expected = mean_level(images, [], []).tolist()
        assert score(load_reward(spec), Image(), images, PROMPTS, METADATA).tolist() == expected
        monkeypatch.setenv("DDPO_REWARD_TOKEN", "sesame")
        assert score(load_reward(url), Image(), images, PROMPTS, METADATA).tolist() == expected
    config = tiny_config(reward=spec, evaluation={"rewards": [spec, "judge"]})
    assert "sesame" not in repeatable(config, Given()).to_yaml()
    assert without_token(spec) == {"name": "remote", "url": url}


def test_only_a_server_s_token_is_left_out():
    assert without_token({"name": "my.py:f", "token": 3}) == {"name": "my.py:f", "token": 3}
    assert without_token({"name": "http://x", "token": "s"}) == {"name": "http://x"}
    remote = {"name": "remote", "url": "http://x"}
    secret = {"name": "sum", "rewards": ["judge", {"reward": remote | {"token": "s"}, "weight": 2}]}
    assert without_token(secret) == {"name": "sum", "rewards": ["judge", {"reward": remote, "weight": 2}]}


def test_a_run_is_named_after_what_it_trains_not_after_a_port():
    assert load_config(None, ["reward=http://127.0.0.1:8000"]).name == "remote"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("http://127.0.0.1:9", r"No reward server answers at http://127.0.0.1:9: .*`ddpo reward serve NAME`"),
        ("http://", "'http://' is not the address of a reward server: write http://host:port"),
        ("http://host:port", "'http://host:port' is not the address"),
        ("http://me:secret@host", "an address has no password"),
        ("http://host\n", "is not the address"),
        ("http://127.0.0.1:9/sub/", "no connection: connection refused"),
        ({"name": "http://host", "token": "sésame"}, "The token for http://host holds more than ASCII"),
        ({"name": "remote"}, "Reward 'remote' needs the option 'url'"),
        ({"name": "remote", "url": []}, r"Reward 'remote': url is \[\]: list should have at least 1 item"),
        ({"name": "http://host", "timeuot": 3}, "no option 'timeuot'. Did you mean 'timeout'"),
        ({"name": "http://host", "on_error": "zero"}, "no option 'on_error'"),
        ({"name": "http://host", "retries": -1}, "retries is -1: it must be greater"),
    ],
    ids=str,
)
def test_mistakes_are_named(spec, message):
    with pytest.raises(RewardError, match=message):
        load_reward(spec)


def test_a_server_that_is_not_there_is_noticed_before_the_model_is_loaded(tiny_config, monkeypatch):
    monkeypatch.setattr("ddpo.training.run.load_policy", lambda *_: pytest.fail("the model was loaded"))
    with pytest.raises(RewardError, match=r"http://127\.0\.0\.1:9"):
        train(tiny_config(reward="http://127.0.0.1:9"))


@pytest.mark.parametrize(
    ("info", "message"),
    [({"protocol": 2}, "speaks protocol 2"), ({"label": 3}, "is not a reward server"), ({"max_items": 0}, "is not")],
)
def test_a_server_of_another_kind_is_refused(info, message):
    with ScriptedServer(**info) as server, pytest.raises(RewardError, match=message):
        load_reward(server.url)


def test_servers_of_different_rewards_are_refused():
    with (
        ScriptedServer() as first,
        ScriptedServer(version="2") as second,
        pytest.raises(RewardError, match=f"The servers differ: {first.url} serves 'mean' version 1, {second.url}"),
    ):
        load_reward({"name": "remote", "url": [first.url, second.url]})
