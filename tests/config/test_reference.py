"""docs/settings.md and `ddpo list settings` against the configuration tree."""

from __future__ import annotations

from pathlib import Path

from ddpo.config import load_config
from ddpo.config.reference import as_page, settings
from ddpo.runs.configurations import flatten

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_page_is_that_of_the_tree():
    assert PAGE.read_text() == as_page(), "python -c 'from ddpo.config.reference import *; print(as_page(), end=str())'"


def test_every_setting_of_a_run_is_there_with_a_text():
    assert all(setting.text for setting in settings())
    known = {setting.key for setting in settings()}
    for algorithm in ("ddpo-is", "ddpo-sf", "rwr", "rwr-sparse"):
        config = load_config("emoji-judge", [f"algorithm={algorithm}"])
        assert set(flatten(config.model_dump(mode="json"))) - {"algorithm.name"} <= known


def test_defaults_are_those_of_the_tree_and_choices_are_named():
    by_key = {setting.key: setting for setting in settings()}
    assert by_key["lora.target_modules"].default == "[to_q, to_k, to_v, to_out.0]"
    assert by_key["guidance_interval"].default == "[0.0, 1.0]"
    assert by_key["tracker"].text.endswith("One of tensorboard, wandb, trackio.")
