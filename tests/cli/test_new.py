"""`ddpo new`: a file that trains as it is."""

from __future__ import annotations

import pytest
from command_line import ddpo

from ddpo.config import load_config


@pytest.mark.parametrize("model", ["embedded", "someone/model"])
def test_the_file_gives_what_was_asked_for_and_otherwise_the_recipe(tmp_path, model):
    done = ddpo("new", "red", "--model", model, "--reward", "my.py:redness", "--prompts", "my.txt", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    config = load_config(tmp_path / "red.yaml")
    assert (config.model.name, config.reward, config.prompts) == (model, "my.py:redness", "my.txt")
    recipe = load_config(None, [f"model={model}"])
    for setting in ("iterations", "samples_per_iteration", "batch_size", "learning_rate", "lora", "sampler"):
        assert getattr(config, setting) == getattr(recipe, setting)


def test_without_a_terminal_nothing_is_asked_and_no_file_is_overwritten(tmp_path):
    assert ddpo("new", "first.yaml", folder=tmp_path).returncode == 0
    assert load_config(tmp_path / "first.yaml").model.name == "embedded"
    again = ddpo("new", "first", folder=tmp_path)
    assert again.returncode == 2
    assert again.stderr == "Error: first.yaml is there already and is never overwritten; give another name.\n"


def test_a_wrong_answer_writes_nothing(tmp_path):
    done = ddpo("new", "red", "--reward", "{name: 3}", folder=tmp_path)
    assert done.returncode == 2
    assert not list(tmp_path.iterdir())
