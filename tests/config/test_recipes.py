"""The recipes against the tables they come from, and how recipes build on each other."""

from __future__ import annotations

import re

import pytest
import yaml

from ddpo.config import load_config, recipes
from ddpo.prompts import load_prompts
from ddpo.rewards import load_reward
from ddpo.runtime.errors import ConfigError

ALGORITHMS = ("ddpo-is", "ddpo-sf", "rwr", "rwr-sparse")

F6 = """
Sampler                         Ancestral Ancestral Ancestral Ancestral
Denoising steps (T)             50        50        50        50
Guidance weight (w)             5.0       5.0       5.0       5.0
Learning rate                   1e-5      1e-5      1e-5      1e-5
Weight decay                    1e-4      1e-4      1e-4      1e-4
beta_1                          0.9       0.9       0.9       0.9
beta_2                          0.999     0.999     0.999     0.999
epsilon                         1e-8      1e-8      1e-8      1e-8
Gradient clip norm              1.0       1.0       1.0       1.0
Inverse temperature (beta)      -         -         0.2       -
Percentile                      -         -         -         0.9
Batch size                      64        256       128       128
Samples per iteration           256       256       10k       10k
Gradient updates per iteration  4         1         400       400
Clip range                      1e-4      -         -         -
"""
"""The paper's table of hyperparameters, columns as in ALGORITHMS; "Batch size" is samples in an update."""


def f6(algorithm: str) -> dict[str, str]:
    rows = (re.split(r"\s{2,}|(?<=\S) (?=\S+ \S+ \S+$)", line.strip()) for line in F6.strip().splitlines())
    table = {}
    for row in rows:
        name, values = row[0], " ".join(row[1:]).split()
        table[name] = values[ALGORITHMS.index(algorithm)]
    return table


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("recipe", ["compressibility", "incompressibility", "aesthetic", "alignment"])
def test_the_papers_recipes_have_the_papers_hyperparameters(recipe, algorithm):
    config, table = load_config(recipe, [f"algorithm={algorithm}"]), f6(algorithm)
    settings = config.algorithm
    regression = algorithm.startswith("rwr")
    per_update = settings.samples_per_update if regression else config.samples_per_iteration // config.updates
    ours = {
        "Sampler": config.sampler.name.capitalize(),
        "Denoising steps (T)": config.sampler.steps,
        "Guidance weight (w)": config.guidance_scale,
        "Learning rate": config.learning_rate,
        "Weight decay": config.optimizer.weight_decay,
        "beta_1": config.optimizer.beta1,
        "beta_2": config.optimizer.beta2,
        "epsilon": config.optimizer.epsilon,
        "Gradient clip norm": config.max_gradient_norm,
        "Inverse temperature (beta)": getattr(settings, "beta", "-"),
        "Percentile": getattr(settings, "percentile", "-"),
        "Batch size": per_update,
        "Samples per iteration": "10k" if config.samples_per_iteration == 10_000 else config.samples_per_iteration,
        "Gradient updates per iteration": config.updates,
        "Clip range": getattr(settings, "clip_range", "-"),
    }
    assert ours.keys() == table.keys()
    for name, value in table.items():
        expected = value if value in ("-", "10k", "Ancestral") else pytest.approx(float(value))
        assert ours[name] == expected, name
    assert config.lora.rank is None  # section F: only the UNet's weights, all of them
    assert config.cfg_training  # G.1
    assert config.iterations * config.samples_per_iteration == pytest.approx(50_000, rel=0.01)  # F.5
    if regression:
        assert settings.reweighting == "prompt"  # F.3
    else:
        assert config.advantage.name == "running"


@pytest.mark.parametrize(
    ("recipe", "prompts"),
    [("compressibility", 398), ("incompressibility", 398), ("aesthetic", 45), ("alignment", 45 * 3)],
)
def test_the_papers_prompts(recipe, prompts):
    assert len(load_prompts(load_config(recipe).prompts)) == prompts
    assert len(load_prompts(load_config(f"{recipe}-lora").prompts)) == prompts


@pytest.mark.parametrize(
    ("recipe", "samples", "updates", "iterations", "buffer"),
    [
        ("compressibility-lora", 256, 4, 100, (16, 16)),
        ("incompressibility-lora", 256, 4, 100, (16, 16)),
        ("aesthetic-lora", 256, 2, 200, (32, 16)),
        ("alignment-lora", 288, 2, 200, (32, 16)),
    ],
)
def test_the_lora_recipes_have_the_settings_of_the_authors_torch_code(recipe, samples, updates, iterations, buffer):
    config = load_config(recipe)
    assert (config.samples_per_iteration, config.updates, config.iterations) == (samples, updates, iterations)
    assert (config.advantage.buffer_size, config.advantage.min_count, config.advantage.clip) == (*buffer, 5.0)
    assert (config.lora.rank, config.learning_rate, config.precision) == (4, 3e-4, "fp16")
    assert (config.sampler.name, config.sampler.steps, config.sampler.eta) == ("ddim", 50, 1.0)
    assert (config.guidance_scale, config.algorithm.clip_range, config.max_gradient_norm) == (5.0, 1e-4, 1.0)


def test_every_recipe_names_a_reward_that_exists():
    for recipe, _ in recipes():
        config = load_config(recipe)
        assert config.name == recipe
        load_reward(config.reward)


def test_what_recipes_build_on_is_not_a_recipe():
    names = [name for name, _ in recipes()]
    assert "emoji-judge" in names
    assert "paper" not in names
    with pytest.raises(ConfigError, match="no recipe 'paper'"):
        load_config("paper")


def write(path, tree):
    path.write_text(yaml.safe_dump(tree))
    return path


def test_a_file_builds_on_a_recipe_and_has_the_last_word(tmp_path):
    file = write(
        tmp_path / "mine.yaml",
        {"extends": "emoji-compressibility", "iterations": 7, "advantage": {"clip": None}, "prompts": ["a red cat"]},
    )
    config, base = load_config(file), load_config("emoji-compressibility")
    assert (config.name, config.iterations, config.advantage.clip, config.prompts) == ("mine", 7, None, ["a red cat"])
    assert config.advantage.buffer_size == base.advantage.buffer_size
    assert config.algorithm == base.algorithm
    assert load_config(file, ["algorithm=rwr"]).iterations == 7
    assert load_config(file, ["iterations=9"]).iterations == 9


def test_naming_an_algorithm_brings_its_settings_along_before_the_users_own(tmp_path):
    file = write(
        tmp_path / "mine.yaml",
        {
            "extends": "emoji-judge",
            "algorithms": {"rwr": {"algorithm": {"beta": 9.0}, "iterations": 2, "samples_per_iteration": 96}},
        },
    )
    for overrides in (["algorithm=rwr", "iterations=3"], ["iterations=3", "algorithm.name=rwr"]):
        config = load_config(file, overrides)
        assert (config.algorithm.beta, config.iterations, config.samples_per_iteration) == (9.0, 3, 96)
    assert load_config(file, ["algorithm=rwr", "algorithm.beta=1"]).algorithm.beta == 1
    assert load_config(file).algorithm.name == "ddpo-is"
    whole = load_config(file, ["algorithm={name: rwr, beta: 2}"])
    assert (whole.algorithm.beta, whole.iterations) == (2, 2)


@pytest.mark.parametrize(
    ("tree", "overrides"),
    [
        ({"algorithm": "rwr"}, ["algorithm=rwr"]),
        ({"algorithm": "ddpo-is"}, []),
        ({"algorithm": {"name": "rwr", "memory_gb": 1}}, ["algorithm=rwr", "algorithm.memory_gb=1"]),
        ({"algorithm": {"clip_range": 0.001}}, ["algorithm.clip_range=0.001"]),
        ({"sampler": "ancestral"}, ["sampler=ancestral"]),
        ({"advantage": "group"}, ["advantage=group"]),
        ({"advantage": {"name": "group"}}, ["advantage=group"]),
        ({"model": {"variant": "fp16"}}, ["model.variant=fp16"]),
        ({"prompts": {"part": "train"}}, ["prompts.part=train"]),
        ({"prompts": "activities"}, ["prompts=activities"]),
        ({"reward": "judge"}, ["reward=judge"]),
        ({"evaluation": {"number": 3}}, ["evaluation.number=3"]),
    ],
)
@pytest.mark.parametrize("recipe", ["emoji-compressibility", "compressibility"])
def test_a_setting_in_a_file_is_the_setting_on_the_command_line(tmp_path, recipe, tree, overrides):
    if recipe == "compressibility" and "advantage" in tree:
        tree, overrides = tree | {"samples_per_prompt": 4}, [*overrides, "samples_per_prompt=4"]
    file = write(tmp_path / "mine.yaml", {"extends": recipe, "name": "mine"} | tree)
    assert load_config(file) == load_config(recipe, [*overrides, "name=mine"])


def test_a_nameless_section_belongs_to_the_algorithm_of_its_file(tmp_path):
    file = write(tmp_path / "mine.yaml", {"algorithm": {"clip_nats": 1.0}})
    assert load_config(file).algorithm.clip_nats == 1.0
    assert load_config(file, ["algorithm=rwr"]).algorithm.beta == 0.2


def test_the_last_named_algorithm_has_its_recipes_settings():
    assert load_config("emoji-judge", ["algorithm=ddpo-is", "algorithm=rwr"]) == load_config(
        "emoji-judge", ["algorithm=rwr"]
    )


def test_what_a_file_extends_is_found_beside_it(tmp_path):
    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder" / "base.yaml", {"extends": "emoji-judge", "iterations": 3})
    assert load_config(write(tmp_path / "folder" / "mine.yaml", {"extends": "base.yaml"})).iterations == 3


def test_a_regression_does_not_mind_how_advantages_are_made():
    assert load_config("compressibility", ["algorithm=rwr", "advantage=group"]).algorithm.name == "rwr"


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"extends": ["emoji-judge"]}, "extends: must be the name of a recipe or a file"),
        ({"extends": {"a": 1}}, "extends: must be the name of a recipe or a file"),
        ({"algorithms": {"rwr": 5}}, "algorithms: must hold"),
        ({"algorithms": {"rwrr": {}}}, "algorithms: unknown algorithm 'rwrr'. Did you mean 'rwr'?"),
        ({"algorithms": {"rwr": {"learning_rat": 1}}}, "algorithms.rwr.learning_rat: unknown key. Did you mean"),
        ({"extends": "nothing"}, "no recipe 'nothing'"),
        ({"extends": "emoji-judge", "algorithms": 3}, "algorithms: must hold"),
        ({"algorithm": {"name": "rwr"}, "inner_epochs": 2}, "inner_epochs: rwr draws its own timesteps"),
        ({"algorithm": {"name": "rwr-sparse", "percentile": 1.0}}, "percentile: must be below 1"),
        ({"algorithm": {"name": "rwr", "beta": -1}}, "beta: must be at least 0"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, tree, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(write(tmp_path / "mine.yaml", tree))


def test_a_file_that_extends_itself_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="extends itself"):
        load_config(write(tmp_path / "mine.yaml", {"extends": "mine.yaml"}).name)


def test_another_model_without_a_recipe_has_the_settings_of_its_family_not_of_the_toy(caplog):
    caplog.set_level("INFO", logger="ddpo")
    config = load_config(None, ["model=someone/model", "reward=my.py:redness"])
    assert (config.lora.rank, config.sampler.steps, config.learning_rate, config.batch_size) == (4, 50, 3e-4, 8)
    assert config.evaluation.rewards == []
    assert config.name == "redness"
    assert "the recipe 'stable-diffusion', made for models such as someone/model" in caplog.text
    named = load_config("stable-diffusion", ["model=someone/model", "reward=my.py:redness"])
    assert named == config
    assert load_config(None, ["model=embedded"]) == load_config(None)
    assert load_config("emoji-judge", ["model=someone/model"]).sampler.steps == 10
