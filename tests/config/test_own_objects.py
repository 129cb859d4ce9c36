"""Names in a configuration: of what comes with the package, of the user's own by path, and of neither."""

from __future__ import annotations

import textwrap

import numpy as np
import pytest
import yaml

from ddpo.algorithms import DDPOScoreFunction
from ddpo.config import load_config, parse_config, with_settings
from ddpo.config.conditions import parse_condition
from ddpo.core.kernel import Kernel
from ddpo.evaluation.loading import kernel_factory
from ddpo.policies.schedule import read_schedule
from ddpo.runtime.errors import ConfigError
from ddpo.training.callbacks import load_callback


@pytest.fixture
def file(tmp_path):
    """Return the path of a file of the user's objects."""
    path = tmp_path / "own.py"
    path.write_text(
        textwrap.dedent(
            """
            import torch
            from pydantic import Field

            from ddpo.algorithms import DDPOScoreFunction
            from ddpo.core.kernel import ddim

            class Twice(DDPOScoreFunction):
                name: str = "twice"
                factor: float = Field(default=2.0, gt=0)

            def ranks(prompts, rewards, state):
                return rewards.argsort().argsort() - len(rewards) / 2, state

            def slow(schedule, steps, times=1):
                return ddim(schedule, steps * times)

            def nothing(schedule, steps):
                return None

            class Policy:
                defaults = {"iterations": 7, "prompts": "none"}

            class Every:
                def __init__(self, number):
                    self.number, self.seen = number, []

                def __call__(self, moment):
                    self.seen.append(moment)

            def note(moment, text=""):
                moment.append(text)
            """
        )
    )
    return path


# --- By path ---------------------------------------------------------------------------------------------------------


def test_an_algorithm_by_path_has_settings_of_its_own(file):
    config = load_config(None, [f"algorithm={file}:Twice", "algorithm.factor=3"])
    assert isinstance(config.algorithm, DDPOScoreFunction)
    assert (type(config.algorithm).__name__, config.algorithm.factor, config.updates) == ("Twice", 3.0, 1)
    again = parse_config(yaml.safe_load(config.to_yaml()))
    assert (again, again.algorithm.factor) == (config, 3.0)
    with pytest.raises(ConfigError, match=r"algorithm\.facto: unknown key\. Did you mean 'factor'\?"):
        load_config(None, [f"algorithm={file}:Twice", "algorithm.facto=3"])
    with pytest.raises(ConfigError, match=r"algorithm\.factor: must be above 0 \(given: -1\)"):
        load_config(None, [f"algorithm={file}:Twice", "algorithm.factor=-1"])


def test_an_advantage_by_path(file):
    config = load_config(None, [f"advantage={file}:ranks", "advantage.clip=1"])
    advantage_S, _ = config.advantage(["a"] * 4, np.array([5.0, 9.0, 1.0, 7.0]), {})
    assert advantage_S.tolist() == [-1, 1, -1, 0]


def test_a_sampler_by_path_gets_its_options(file, ddim_config):
    schedule = read_schedule(ddim_config())
    config = load_config(None, [f"sampler={file}:slow", "sampler.steps=4", "sampler.options={times: 3}"])
    kernel = kernel_factory(config.sampler)(schedule)
    assert isinstance(kernel, Kernel)
    assert len(kernel) == 12
    wrong = load_config(None, [f"sampler={file}:nothing"])
    with pytest.raises(ConfigError, match=r"sampler\.name: '.*own\.py:nothing' returned NoneType, not a Kernel"):
        kernel_factory(wrong.sampler)(schedule)


def test_a_policy_by_path_brings_its_defaults(file):
    config = load_config(None, [f"policy={file}:Policy", "batch_size=2"])
    assert (config.policy, config.iterations, config.prompts, config.batch_size) == (f"{file}:Policy", 7, "none", 2)
    assert load_config(None, [f"policy={file}:Policy", "iterations=3"]).iterations == 3
    assert load_config("compressibility", [f"policy={file}:Policy"]).iterations == 195  # a recipe says it all
    options = load_config(None, [f"policy={{name: {file}:Policy, width: 5}}"])
    assert options.policy == {"name": f"{file}:Policy", "width": 5}


def test_callbacks_by_path(file):
    config = load_config(None, [f"callbacks=[{file}:note, {{name: {file}:Every, number: 3}}]"])
    note, every = (load_callback(spec) for spec in config.callbacks)
    told = []
    note(told)
    load_callback({"name": f"{file}:note", "text": "hello"})(told)
    assert told == ["", "hello"]
    every("moment")
    assert (every.number, every.seen) == (3, ["moment"])
    with pytest.raises(ConfigError, match=r"callbacks: '.*own\.py:Every' raised TypeError: .*'number'"):
        load_callback(f"{file}:Every")
    with pytest.raises(ConfigError, match=r"has no 'Ever'\. Did you mean 'Every'\?"):
        load_callback(f"{file}:Ever")


# --- Names that nobody knows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            {"algorithm": "ddpoo-is"},
            "algorithm.name: unknown algorithm 'ddpoo-is'. Did you mean 'ddpo-is'? Known: ddpo-is, ddpo-sf, rwr, "
            "rwr-sparse, or your own as path/to/file.py:Name.",
        ),
        (
            {"algorithm": {"clip_range": 1e-3}},
            "algorithm.name: needs a 'name'. Known: ddpo-is, ddpo-sf, rwr, rwr-sparse, or your own as "
            "path/to/file.py:Name.",
        ),
        (
            {"sampler": "ddmi"},
            "sampler: name 'ddmi' is unknown. Did you mean 'ddim'? Known: ddim, ancestral, flow-sde, flow-ddim, "
            "flow-dance, flow-cps, or your own as "
            "path/to/file.py:function.",
        ),
        (
            {"advantage": {"name": "runing"}},
            "advantage: name 'runing' is unknown. Did you mean 'running'? Known: running, batch, group, leave-one-out, "
            "or your own as path/to/file.py:function.",
        ),
        (
            {"sampler": {"options": {"a": 1}}},
            "sampler: sampler.options are for a function of your own; the ddim sampler has none.",
        ),
        ({"sampler": {"name": "ancestral", "eta": 0.5}}, "sampler: the ancestral sampler has no eta; leave it out or "
         "use name=ddim."),
        ({"algorithm": 3}, "algorithm: must be keys and values (given: 3)."),
    ],
)  # fmt: skip
def test_one_sentence_says_what_is_known(tree, message):
    with pytest.raises(ConfigError) as raised:
        parse_config(tree)
    assert str(raised.value) == message


# --- Conditions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "holds", "does_not"),
    [
        ("evaluation/kl_to_base > 60", 60.5, 60),
        ("reward/mean >= -1e-3", -0.001, -0.002),
        ("reward/jpeg:quality/mean<0", -1, 0),
        ("gradient_norm <= .5", 0.5, 0.6),
    ],
)
def test_conditions_hold_where_their_metric_says_so(text, holds, does_not):
    condition = parse_condition(text)
    assert condition.holds({condition.metric: holds})
    assert not condition.holds({condition.metric: does_not})
    assert not condition.holds({"another": holds})
    assert parse_condition(str(condition)) == condition
    assert parse_config({"stop_when": [text]}).stop_when == [text]


@pytest.mark.parametrize("text", ["reward/mean", "reward/mean = 3", "reward/mean > high", "> 3", "a > 1 > 0", ""])
def test_what_is_no_condition_is_refused(text):
    with pytest.raises(ConfigError) as raised:
        load_config(settings={"stop_when": [text]})
    assert str(raised.value) == (
        f"stop_when: '{text}' is no condition; give a metric, >, <, >= or <=, and a number, such as "
        "'evaluation/kl_to_base > 60'."
    )


@pytest.mark.parametrize("bound", ["nan", "inf"])
def test_a_condition_that_could_never_hold_is_refused(bound):
    with pytest.raises(ConfigError, match="is no condition"):
        parse_config({"stop_when": [f"reward/mean > {bound}"]})


# --- Settings by key -------------------------------------------------------------------------------------------------


def test_settings_are_overrides_as_plain_values():
    settings = {
        "iterations": 3,
        "sampler": {"steps": 4},
        "lora.rank": 2,
        "advantage": {"clip": None},
        "reward": {"name": "jpeg-compressibility", "quality": 20},
        "prompts": ["a red cat"],
    }
    overrides = [
        "iterations=3",
        "sampler.steps=4",
        "lora.rank=2",
        "advantage.clip=null",
        "reward={name: jpeg-compressibility, quality: 20}",
        "prompts=[a red cat]",
    ]
    assert load_config(settings=settings) == load_config(None, overrides)
    assert load_config("compressibility", settings={"algorithm": "rwr"}) == load_config(
        "compressibility", ["algorithm=rwr"]
    )
    assert load_config(None, ["iterations=9"], {"iterations": 3}).iterations == 3


def test_weights_of_rewards_are_one_value():
    reward = {"jpeg-compressibility": 1.0, "judge": 0.5}
    assert load_config(settings={"reward": reward}).reward == reward


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iteration": 3}, "iteration: unknown key. Did you mean 'iterations'?"),
        ({"sampler": {"step": 3}}, "sampler.step: unknown key. Did you mean 'steps'?"),
        ({"iterations": 0}, "iterations: must be at least 1 (given: 0)."),
        ({"batch_size": {"a": 1}}, "batch_size: is a single value and has no key 'a'."),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ConfigError) as raised:
        load_config(settings=settings)
    assert str(raised.value) == message
    with pytest.raises(ConfigError) as raised:
        with_settings(load_config(), settings)
    assert str(raised.value) == message


def test_a_configuration_with_other_settings():
    config = load_config(None, ["algorithm.clip_nats=2", "sampler.steps=7", "name=mine"])
    other = with_settings(config, {"sampler": {"eta": 0.5}, "algorithm": {"clip_range": 1e-3}, "iterations": 2})
    assert (other.sampler.steps, other.sampler.eta, other.iterations, other.name) == (7, 0.5, 2, "mine")
    assert (other.algorithm.clip_range, other.algorithm.clip_nats) == (1e-3, None)
    assert config.algorithm.clip_nats == 2  # as it was
    assert with_settings(config, {}) == config


def test_another_algorithm_brings_its_own_number_of_updates():
    config = load_config(None, ["algorithm.clip_nats=2"])
    assert config.updates == 4
    other = with_settings(config, {"algorithm": "ddpo-sf"})
    assert (other.algorithm, other.updates) == (DDPOScoreFunction(), 1)
    assert with_settings(config, {"algorithm": "rwr"}).updates == 400
    assert with_settings(config, {"updates_per_iteration": 5, "algorithm": {"name": "rwr"}}).updates == 5
    assert with_settings(config, {"algorithm": {"clip_nats": 3}}).updates == 4


def test_prompts_with_answers_are_settings_too():
    config = load_config()
    prompts = with_settings(config, {"prompts": [{"prompt": "a cat", "answer": "yes"}]})
    assert prompts.prompts == [{"prompt": "a cat", "answer": "yes"}]
