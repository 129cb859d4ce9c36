import sys

import numpy as np
import pytest
import torch

from ddpo.media import Image
from ddpo.rewards import NamedReward, available_rewards, load_reward, score
from ddpo.runtime.errors import RewardError

REDNESS = """
from helper import WEIGHT

def redness(images, prompts, metadata, *, gain=1.0):
    from lazy import OFFSET
    return gain * WEIGHT * images[:, 0].mean((1, 2)) + OFFSET

def far(samples, prompts, metadata, scale=1):
    return [0.0] * len(prompts)

class Scorer:
    pass

answer = 42

def two(images, prompts):
    return [0.0] * len(prompts)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("helper", "lazy", "mymodule"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "my.py").write_text(REDNESS)
    (tmp_path / "helper.py").write_text("WEIGHT = 2.0\n")
    (tmp_path / "lazy.py").write_text("OFFSET = 0.25\n")
    yield tmp_path
    for name in ("helper", "lazy", "mymodule"):
        sys.modules.pop(name, None)


def scores(reward):
    images = torch.zeros(2, 3, 4, 4)
    images[1, 0] = 1.0
    return score(reward, Image(), images, ["a cat", "a dog"], [{}, {}]).tolist()


def test_a_file_with_neighbours(folder):
    reward = load_reward(f"{folder}/my.py:redness")
    # red 0 and 1, weight 2, offset 0.25 -> 0.25 and 2.25
    assert scores(reward) == [0.25, 2.25]
    assert reward.name == f"{folder}/my.py:redness"
    assert reward.label == "redness"


def test_a_path_relative_to_the_working_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert scores(load_reward("my.py:redness")) == [0.25, 2.25]


def test_options(folder):
    reward = load_reward({"name": f"{folder}/my.py:redness", "gain": 10.0})
    assert scores(reward) == [0.25, 20.25]


def test_a_module_in_the_working_folder(folder, monkeypatch):
    (folder / "mymodule.py").write_text("def ones(images, prompts, metadata):\n    return [1.0] * len(prompts)\n")
    monkeypatch.chdir(folder)
    assert scores(load_reward("mymodule:ones")) == [1.0, 1.0]


def test_neighbours_never_shadow_other_modules_later(folder):
    load_reward(f"{folder}/my.py:redness")
    assert sys.path[-1] == str(folder)
    assert sys.path[0] != str(folder)


def test_a_function_is_its_own_reward():
    def my_reward(images, prompts, metadata):
        return np.ones(2)

    my_reward.label = "ones (kg)"
    reward = load_reward(my_reward)
    assert (reward.name, reward.label, reward.function) == ("my_reward", "ones (kg)", my_reward)
    assert load_reward(reward) is reward


def test_an_object_with_call_is_a_reward():
    class Scorer:
        def __call__(self, images, prompts, metadata):
            return np.ones(2)

    assert load_reward(Scorer()).name == "Scorer"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("jpeg-compresibility", "Unknown reward.*Did you mean 'jpeg-compressibility'"),
        ("{folder}/mu.py:redness", "no file .*Did you mean 'my.py'"),
        ("{folder}/my.py:rednes", "has no 'rednes'. Did you mean 'redness'"),
        ("{folder}/my.py:answer", "of type int, not a function"),
        ("{folder}/my.py:Scorer", "a class, not a function"),
        ("{folder}/my.py:two", r"takes \(images, prompts\)"),
        ("{folder}/my.py", "name its function too"),
        ("{folder}/my.py:", "not of the form"),
        ("no_such_package.rewards:f", "no module 'no_such_package'"),
        ("{folder}/broken.py:f", r"ModuleNotFoundError: No module named 'not_there' \(.*broken.py, line 2\)"),
        ("{folder}/syntax.py:f", "SyntaxError"),
        ({"name": "{folder}/my.py:redness", "gian": 2}, "no option 'gian'. Did you mean 'gain'"),
        ({"name": "judge", "x": 2}, "has no options"),
        ({"name": "{folder}/my.py:far", "samples": 2}, "no option 'samples'.* Its options: scale."),
        ({"name": "judge", "workers": 2}, "set by scoring.workers"),
        ({"nam": "judge"}, "needs a 'name'"),
        (lambda images: 0, "takes"),
        (int, "a class"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),  # the address of a function is another in each process
)
def test_mistakes_are_named(spec, message, folder):
    (folder / "broken.py").write_text("\nimport not_there\n")
    (folder / "syntax.py").write_text("def f(:\n")
    if isinstance(spec, str):
        spec = spec.format(folder=folder)
    elif isinstance(spec, dict) and "name" in spec:
        spec = {**spec, "name": spec["name"].format(folder=folder)}
    with pytest.raises(RewardError, match=message):
        load_reward(spec)


def test_every_listed_reward_loads_and_takes_images():
    for name, description in available_rewards():
        reward = load_reward(name)
        assert isinstance(reward, NamedReward)
        assert (reward.name, reward.media) == (name, ("image",))
        assert reward.label
        assert "\n" not in description
