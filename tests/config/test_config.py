"""The configuration: overrides, round trips, and the paper's defaults."""

from __future__ import annotations

import pytest
import yaml

from ddpo.config import TrainConfig, load_config, parse_config, recipes
from ddpo.config.changes import changes
from ddpo.runtime.errors import ConfigError


@pytest.mark.parametrize("recipe", [name for name, _ in recipes()])
def test_yaml_gives_the_same_configuration_again(recipe):
    config = load_config(recipe)
    assert parse_config(yaml.safe_load(config.to_yaml())) == config


def test_defaults_are_the_papers():
    # F.6: T 50, w 5.0, AdamW (0.9, 0.999, 1e-8), weight decay 1e-4, lr 1e-5, clip norm 1.0; F.1: 256 samples, 4 updates
    config = TrainConfig()
    assert (config.sampler.steps, config.guidance_scale, config.learning_rate) == (50, 5.0, 1e-5)
    optimizer = config.optimizer
    assert (optimizer.beta1, optimizer.beta2, optimizer.epsilon, optimizer.weight_decay) == (0.9, 0.999, 1e-8, 1e-4)
    assert (config.max_gradient_norm, config.samples_per_iteration, config.updates) == (1.0, 256, 4)
    assert config.algorithm.clip(16384) == 1e-4
    assert parse_config({"algorithm": "ddpo-sf"}).updates == 1


def test_clip_in_nats_is_the_clip_range_times_the_dimensions():
    algorithm = parse_config({"algorithm": {"name": "ddpo-is", "clip_nats": 1.6384}}).algorithm
    assert algorithm.clip(16384) == pytest.approx(1e-4)
    assert algorithm.clip(512) == pytest.approx(3.2e-3)
    assert algorithm.ratio_tolerance(16384) == pytest.approx(1e-5)


@pytest.mark.parametrize("override", ["algorithm=ddpo-sf", "algorithm.name=ddpo-sf", "algorithm={name: ddpo-sf}"])
def test_another_algorithm_drops_the_settings_of_the_former(override):
    assert load_config(None, [override]).algorithm.name == "ddpo-sf"


def test_any_recipe_takes_another_algorithm():
    for recipe, _ in recipes():
        assert load_config(recipe, ["algorithm=ddpo-sf"]).updates == 1


def test_a_clip_replaces_the_other_clip():
    for override, clip in (("algorithm.clip_range=1e-3", 1e-3), ("algorithm.clip_nats=1.0", 1.0 / 512)):
        assert load_config(None, [override]).algorithm.clip(512) == pytest.approx(clip)


def test_naming_the_same_keeps_the_settings():
    kept = load_config(None, ["algorithm.clip_range=1e-3", "algorithm.name=ddpo-is"])
    assert kept.algorithm.clip(512) == 1e-3


def test_the_sampler_keeps_its_steps_under_another_name():
    config = load_config(None, ["sampler=ancestral"])
    assert (config.sampler.name, config.sampler.steps) == ("ancestral", load_config(None).sampler.steps)


def test_runs_are_named_after_what_they_train():
    assert load_config(None).name == "emoji-compressibility"
    assert load_config(None, ["reward=my.py:redness", "algorithm=ddpo-sf"]).name == "redness-ddpo-sf"
    assert load_config(None, ["reward=jpeg-incompressibility"]).name == "jpeg-incompressibility"
    assert load_config(None, ["name=mine", "reward=judge"]).name == "mine"


def test_numbers_in_yaml_without_a_point_are_numbers():
    assert load_config(None, ["learning_rate=1e-4"]).learning_rate == 1e-4  # YAML 1.1 reads 1e-4 as text


def test_guidance_must_begin_before_it_ends():
    assert parse_config({"guidance_interval": [0.2, 1]}).guidance_interval == (0.2, 1.0)
    with pytest.raises(ConfigError, match=r"guidance_interval: guidance would end at 0\.2, before it begins at 0\.5"):
        parse_config({"guidance_interval": [0.5, 0.2]})
    with pytest.raises(ConfigError, match=r"guidance_interval\.1: "):
        parse_config({"guidance_interval": [0.5, 2]})


def test_a_setting_that_came_since_is_a_change_only_where_it_is_not_its_default():
    before, now = (parse_config({"model": "mine"}).model_dump(mode="json") for _ in range(2))
    del before["guidance_interval"], before["sampler"]["level"]
    assert changes(before, now) == []
    [change] = changes(before, now | {"guidance_interval": [0.0, 0.5]})
    assert str(change) == "guidance_interval: [0.0, 1.0] -> [0.0, 0.5]"
    now["sampler"]["level"] = 0.5
    assert [str(each) for each in changes(before, now)] == ["sampler.level: null -> 0.5"]
    now["reward"] = {"name": "judge"}
    assert "reward: jpeg-compressibility -> unset" in [str(each) for each in changes(before, now)]


def test_a_file_that_is_not_a_mapping_is_refused(tmp_path):
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="must hold keys and values"):
        load_config(tmp_path / "list.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(tmp_path / "broken.yaml")
