"""A reward of a server is the reward itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reward_servers import ScriptedServer, real_server

from ddpo.config import load_config
from ddpo.errors import RewardError
from ddpo.rewards import load_reward, score, to_uint8, without_token
from ddpo.rewards.remote import open_png, pixels_of, to_png
from ddpo.run import repeatable, train

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
        assert score(remote, images, PROMPTS, METADATA).tolist() == score(local, images, PROMPTS, METADATA).tolist()
    assert (remote.key, remote.label) == (local.key, local.label)


@pytest.mark.parametrize("metadata", [METADATA, [{}] * len(PROMPTS)])
def test_the_judge_sees_the_picture_as_in_a_file(metadata, images):
    judge = load_reward("judge")
    levels = np.ascontiguousarray(to_uint8(images.numpy()).transpose(0, 3, 1, 2), dtype=np.float32)
    rounded = torch.from_numpy(levels / np.float32(255))
    with real_server("judge") as url:
        scores = score(load_reward(url), images, PROMPTS, metadata)
    assert scores.tolist() == score(judge, rounded, PROMPTS, metadata).tolist()
    # Local scores are of pictures that were not rounded to 8 bits.
    assert np.abs(scores - score(judge, images, PROMPTS, metadata)).max() < 1e-3


def test_training_on_a_server_gives_the_metrics_of_training_without_one(tiny_config, tmp_path):
    local = train(tiny_config(reward="jpeg-compressibility", output=tmp_path / "local"))
    with real_server("jpeg-compressibility") as url:
        remote = train(tiny_config(reward={"name": "remote", "url": url, "batch": 3}, output=tmp_path / "remote"))
    assert without_times(remote.metrics) == without_times(local.metrics)
    assert remote.labels == local.labels
    assert len(remote.metrics) == 2


def without_times(metrics):
    return [{key: value for key, value in entry.items() if not key.startswith("time/")} for entry in metrics]


def test_several_servers_share_the_samples(images):
    with ScriptedServer() as first, ScriptedServer() as second:
        reward = load_reward({"name": "remote", "url": [first.url, second.url], "batch": 1})
        many = images.repeat(6, 1, 1, 1)
        scores = score(reward, many, PROMPTS * 6, METADATA * 6)
        assert first.requests
        assert second.requests
        assert len(first.requests) + len(second.requests) == len(many)
    assert np.array_equal(scores, mean_level(many, [], []))


def test_a_request_holds_no_more_than_the_server_takes(images):
    with ScriptedServer(max_items=3) as server:
        score(load_reward(server.url), images, PROMPTS, METADATA)
        assert [len(ids) for ids in server.requests] == [3, 3, 1]


def test_no_samples_need_no_request(images):
    with ScriptedServer() as server:
        assert score(load_reward(server.url), images[:0], [], []).shape == (0,)
        assert not server.requests


def test_a_token_is_sent_and_never_written_down(images, tiny_config, monkeypatch):
    with real_server(mean_level, token="sesame") as url:
        with pytest.raises(RewardError, match=r"refuses the token.*DDPO_REWARD_TOKEN"):
            load_reward(url)
        spec = {"name": "remote", "url": url, "token": "sesame"}
        expected = mean_level(images, [], []).tolist()
        assert score(load_reward(spec), images, PROMPTS, METADATA).tolist() == expected
        monkeypatch.setenv("DDPO_REWARD_TOKEN", "sesame")
        assert score(load_reward(url), images, PROMPTS, METADATA).tolist() == expected
    config = tiny_config(reward=spec, evaluation={"rewards": [spec, "judge"]})
    assert "sesame" not in repeatable(config, None, None).to_yaml()
    assert without_token(spec) == {"name": "remote", "url": url}


def test_only_a_server_s_token_is_left_out():
    assert without_token({"name": "my.py:f", "token": 3}) == {"name": "my.py:f", "token": 3}
    assert without_token({"name": "http://x", "token": "s"}) == {"name": "http://x"}


def test_a_run_is_named_after_what_it_trains_not_after_a_port():
    assert load_config(None, ["reward=http://127.0.0.1:8000"]).name == "remote"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("http://127.0.0.1:9", r"No reward server answers at http://127.0.0.1:9: .*`ddpo reward serve NAME`"),
        ("http://", "'http://' is not the address of a reward server: write http://host:port"),
        ("http://host:port", "'http://host:port' is not the address"),
        ("http://me:secret@host", "an address has no password"),
        ({"name": "remote"}, "Option 'url' of a remote reward: Field required"),
        ({"name": "remote", "url": []}, "Option 'url'"),
        ({"name": "http://host", "timeuot": 3}, "no option 'timeuot'. Did you mean 'timeout'"),
        ({"name": "http://host", "on_error": "zero"}, "no option 'on_error'"),
        ({"name": "http://host", "retries": -1}, "Option 'retries'"),
    ],
    ids=str,
)
def test_mistakes_are_named(spec, message):
    with pytest.raises(RewardError, match=message):
        load_reward(spec)


def test_a_server_that_is_not_there_is_noticed_before_the_model_is_loaded(tiny_config, monkeypatch):
    monkeypatch.setattr("ddpo.run.load_policy", lambda *_: pytest.fail("the model was loaded"))
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
