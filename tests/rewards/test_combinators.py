"""Rewards made of rewards: the values by hand, the configuration's forms, and how mistakes are told."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml

from ddpo.config import load_config, parse_config
from ddpo.media import Image
from ddpo.rewards import (
    CombinedReward,
    ComponentScores,
    NamedReward,
    Scorer,
    combine,
    load_reward,
    repeatable_spec,
    score,
    score_components,
)
from ddpo.runtime.errors import RewardError

PROMPTS = ["a cat", "a dog", "a cat", "an ant"]
# what `level` and `index` give the four samples below
LEVEL, INDEX = [0.1, 0.5, 0.9, 0.5], [0.0, 1.0, 2.0, 3.0]


def level(images, prompts, metadata, *, gain=1.0):
    """What the mean level has above 0.1: levels of 8 bits are fifths, a tenth is none."""
    return gain * (images.double().mean((1, 2, 3)) - 0.1)


def index(images, prompts, metadata):
    return [m["index"] for m in metadata]


def samples():
    images = torch.tensor(LEVEL, dtype=torch.float64).add(0.1)[:, None, None, None].expand(4, 3, 4, 4)
    return images, PROMPTS, [{"index": value} for value in INDEX]


def scores(spec):
    return score(load_reward(spec), Image(), *samples())


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


def test_a_mapping_from_rewards_to_weights_is_their_weighted_sum():
    reward = load_reward({level: 10, index: -0.5})
    assert isinstance(reward, CombinedReward)
    # 10 * level - 0.5 * index
    close(score(reward, Image(), *samples()), [1.0, 4.5, 8.0, 3.5])
    assert reward.label == "10 level - 0.5 index"
    assert list(reward.components) == ["level", "index"]


@pytest.mark.parametrize(
    ("spec", "expected", "label"),
    [
        ({"name": "sum", "rewards": [level, index]}, [0.1, 1.5, 2.9, 3.5], "level + index"),
        ({"name": "product", "rewards": [level, index]}, [0.0, 0.5, 1.8, 1.5], "level x index"),
        ({"name": "clip", "reward": level, "low": 0.2, "high": 0.6}, [0.2, 0.5, 0.6, 0.5], "level in [0.2, 0.6]"),
        ({"name": "clip", "reward": level, "high": 0.6}, [0.1, 0.5, 0.6, 0.5], "level at most 0.6"),
        ({"name": "clip", "reward": index, "low": 2}, [2.0, 2.0, 2.0, 3.0], "index at least 2"),
        ({"name": "cached", "reward": level}, LEVEL, "level"),
        # clipped to [0.2, 0.6], then times 2
        (
            {"name": "sum", "rewards": [{"reward": level, "clip": [0.2, 0.6], "weight": 2}]},
            [0.4, 1.0, 1.2, 1.0],
            "2 (level in [0.2, 0.6])",
        ),
        ({"name": "sum", "rewards": [{"reward": level, "clip": [None, 0.4]}]}, [0.1, 0.4, 0.4, 0.4], None),
        # options in braces reach the reward: 3 * level
        ({"name": "product", "rewards": [{"name": f"{__file__}:level", "gain": 3}]}, [0.3, 1.5, 2.7, 1.5], "level"),
        ({"name": "sum", "rewards": [{"name": f"{__file__}:level", "gain": 3, "weight": 2}]}, [0.6, 3, 5.4, 3], None),
        # (level + index) * clip(index, 1, 2): 0.1 * 1, 1.5 * 1, 2.9 * 2, 3.5 * 2
        (
            {
                "name": "product",
                "rewards": [{level: 1, index: 1}, {"name": "clip", "reward": index, "low": 1, "high": 2}],
            },
            [0.1, 1.5, 5.8, 7.0],
            "(level + index) x (index in [1, 2])",
        ),
        ({"name": "sum", "rewards": [{level: 2}, {"reward": index, "weight": "1e-1"}]}, [0.2, 1.1, 2.0, 1.3], None),
    ],
)  # fmt: skip
def test_values_by_hand(spec, expected, label):
    close(scores(spec), expected)
    if label is not None:
        assert load_reward(spec).label == label


def test_z_scores_and_ranks_of_a_batch():
    # index: mean 1.5, population variance (2.25 + 0.25 + 0.25 + 2.25) / 4 = 1.25
    z = {"name": "sum", "rewards": [{"reward": index, "normalise": "z-score"}]}
    close(scores(z), np.array([-1.5, -0.5, 0.5, 1.5]) / np.sqrt(1.25))
    # level 0.1 0.5 0.9 0.5: below 0, 1, 3, 1; the ties with itself and the other 0.5 count half: 0.5, 2, 3.5, 2 of 4
    ranked = {"name": "sum", "rewards": [{"reward": level, "normalise": "rank", "weight": 8}, index]}
    close(scores(ranked), [1 + 0, 4 + 1, 7 + 2, 4 + 3])
    assert load_reward(ranked).label == "8 rank(level) + index"


@pytest.mark.parametrize(("normalise", "expected"), [("z-score", 0.0), ("rank", 0.5)])
def test_equal_scores_carry_nothing(normalise, expected):
    def constant(images, prompts, metadata):
        return [1.1] * len(prompts)

    assert scores({"name": "sum", "rewards": [{"reward": constant, "normalise": normalise}]}).tolist() == [expected] * 4


def test_a_nested_sum_is_normalised_as_a_whole():
    inner = {level: 10, index: -0.5}  # 1.0, 4.5, 8.0, 3.5: ranks 1, 3, 4, 2 minus one half, of 4
    spec = {"name": "sum", "rewards": [{"reward": inner, "normalise": "rank"}]}
    close(scores(spec), [0.125, 0.625, 0.875, 0.375])


def test_parts_scored_apart_are_normalised_together():
    reward = load_reward({"name": "sum", "rewards": [{"reward": level, "normalise": "z-score"}, index]})
    images, prompts, metadata = samples()
    parts = [
        score_components(reward, Image(), images[part], prompts[part], metadata[part])
        for part in (slice(3), slice(3, 4))
    ]
    together = {key: np.concatenate([part[key] for part in parts]) for key in ("level", "index")}
    whole = score(reward, Image(), images, prompts, metadata)
    assert combine(reward, ComponentScores(prompts, together)).tolist() == whole.tolist()


def test_a_scorer_normalises_later_samples_by_the_first():
    scorer = Scorer([load_reward({"name": "sum", "rewards": [{"reward": level, "normalise": "rank"}]})], [])
    images, prompts, metadata = samples()
    before = scorer.combine([scorer.score(Image(), images, prompts, metadata)], prompts)
    close(before["sum"], [0.125, 0.5, 0.875, 0.5])
    after = scorer.combine([scorer.score(Image(), images - 0.2, prompts, metadata)], prompts)
    # -0.1, 0.3, 0.7, 0.3 among 0.1, 0.5, 0.5, 0.9: above 0, 1, 3, 1 of 4
    close(after["sum"], [0.0, 0.25, 0.75, 0.25])
    close(after["level"], [-0.1, 0.3, 0.7, 0.3])
    assert scorer.labels == {"sum": "rank(level)", "level": "level"}


def test_equal_rewards_are_one_component_and_others_get_a_number():
    calls = []

    def counted(images, prompts, metadata, *, gain=1.0):
        calls.append(len(prompts))
        return gain * np.ones(len(prompts))

    reward = load_reward({"name": "product", "rewards": [counted, {"name": "clip", "reward": counted, "low": 0}]})
    assert score(reward, Image(), *samples()).tolist() == [1.0] * 4
    assert calls == [4]
    qualities = [{"name": "jpeg-compressibility", "quality": quality} for quality in (20, 95, 20)]
    reward = load_reward({"name": "sum", "rewards": qualities})
    assert list(reward.components) == ["jpeg-compressibility", "jpeg-compressibility-2"]


def test_a_combination_can_be_combined():
    inner = load_reward({level: 10})
    close(score(inner, Image(), *samples()), [1.0, 5.0, 9.0, 5.0])
    close(scores({"name": "clip", "reward": inner, "high": 6}), [1.0, 5.0, 6.0, 5.0])
    assert load_reward(inner) is inner


def test_a_component_that_fails_and_a_sum_that_overflows_are_named():
    with pytest.raises(RewardError, match=r"Reward 'judge': the prompt 'x' names no animal"):
        score(load_reward({"judge": 1}), Image(), torch.zeros(1, 3, 64, 64), ["x"], [{}])
    with pytest.raises(RewardError, match=r"Reward 'sum' returned inf for sample 1, prompt 'a dog' \(and 2 more\)"):
        scores({"name": "sum", "rewards": [{"name": "product", "rewards": [{index: 1e308}, {index: 1e308}]}]})


class Counter:
    """A reward that remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, images, prompts, metadata):
        self.asked.append(list(prompts))
        return images.mean((1, 2, 3))


def test_cached_asks_once_for_the_same_picture_prompt_and_metadata():
    counter = Counter()
    reward = load_reward({"name": "cached", "reward": counter})
    images = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0])[:, None, None, None].expand(5, 3, 4, 4)
    prompts, metadata = ["a", "a", "a", "b", "a"], [{}, {}, {}, {}, {"x": 1}]
    for _ in range(2):
        assert score(reward, Image(), images, prompts, metadata).tolist() == [0, 0, 1, 0, 0]
    assert sorted(counter.asked[0]) == ["a", "a", "a", "b"]  # the first two samples are equal
    assert len(counter.asked) == 1
    score(reward, Image(), images[:2], ["a", "c"], [{}, {}])
    assert counter.asked[1] == ["c"]
    # the same bytes in another shape are another picture
    score(reward, Image(), images[:1].reshape(1, 3, 2, 8), ["a"], [{}])
    assert counter.asked[2] == ["a"]


@pytest.mark.parametrize(
    ("metadata", "other"),
    [
        ({"x": 1}, {"x": True}),
        ({"x": 1}, {"x": 1.0}),
        ({"x": 1}, {"x": "1"}),
        ({"x": [1]}, {"x": [[1]]}),
        ({}, {"x": {}}),
    ],
    ids=str,
)
def test_cached_tells_metadata_apart_whatever_the_order_of_their_keys(metadata, other):
    counter = Counter()
    reward = load_reward({"name": "cached", "reward": counter})
    for given in ({**metadata, "y": 0}, {"y": 0, **metadata}, {**other, "y": 0}):
        score(reward, Image(), torch.zeros(1, 3, 4, 4), ["a"], [given])
    assert len(counter.asked) == 2


@pytest.mark.parametrize("value", [np.zeros(1), (1, 2), {1: 2}, float("nan"), {3}, b"x"], ids=repr)
def test_cached_refuses_metadata_that_json_cannot_hold(value):
    reward = load_reward({"name": "cached", "reward": Counter()})
    with pytest.raises(RewardError, match=r"cannot be cached: the metadata of the prompt 'a' are no JSON; give text"):
        score(reward, Image(), torch.zeros(1, 3, 4, 4), ["a"], [{"x": value}])


def test_cached_forgets_what_was_used_longest_ago():
    counter = Counter()
    reward = load_reward({"name": "cached", "reward": counter, "size": 2})
    picture = torch.zeros(1, 3, 4, 4)
    for prompt in ("a", "b", "a", "c", "a", "b"):  # c takes the place of b
        score(reward, Image(), picture, [prompt], [{}])
    assert counter.asked == [["a"], ["b"], ["c"], ["b"]]


def test_cached_reaches_every_component_and_tells_mistakes_with_the_right_sample():
    def broken(images, prompts, metadata):
        return [np.nan if prompt == "b" else 0.0 for prompt in prompts]

    reward = load_reward({"name": "cached", "reward": {broken: 1}})
    images = torch.zeros(3, 3, 4, 4)
    score(reward, Image(), images[:1], ["a"], [{}])
    with pytest.raises(RewardError, match="Reward 'broken' returned nan for sample 2, prompt 'b'"):
        score(reward, Image(), images, ["a", "a", "b"], [{}] * 3)
    wrong = load_reward({"name": "cached", "reward": lambda i, p, m: [0.0]})
    with pytest.raises(RewardError, match="returned an array of shape"):
        score(wrong, Image(), images[:2], ["a", "b"], [{}] * 2)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"jpeg-compresibility": 0.5, "judge": 10}, "Unknown reward.*Did you mean 'jpeg-compressibility'"),
        ({"judge": "ten"}, "needs a 'name'.*a number for each reward; given: {'judge': 'ten'}"),
        ({"judge": True}, "a number for each reward"),
        ({"judge": float("nan")}, "a number for each reward"),
        ({}, "needs a 'name'"),
        ({"name": ["judge"]}, "needs a 'name' that is text, not \\['judge'\\]"),
        ("clip", "'clip' combines others"),
        ("prodct", "Did you mean 'product'"),
        ({"name": "sum", "reward": ["judge"]}, "'sum' has no option 'reward'. Did you mean 'rewards'"),
        ({"name": "clip", "low": 0}, "'clip' needs the option 'reward'"),
        ({"name": "clip", "reward": "judge"}, "no bounds"),
        ({"name": "clip", "reward": "judge", "low": "x"}, "low is 'x': it must be a valid number"),
        ({"name": "clip", "reward": "judge", "low": 1, "high": 0}, r"clipped to \[1, 0\]"),
        ({"name": "clip", "reward": "judge", "hihg": 0}, "no option 'hihg'. Did you mean 'high'"),
        ({"name": "sum", "rewards": "judge"}, "rewards is 'judge': it must be a valid list"),
        ({"name": "sum", "rewards": []}, "at least 1 item"),
        ({"name": "sum", "rewards": [{"name": "judge", "wieght": 2}]}, "no option 'wieght'.*Did you mean 'weight'"),
        ({"name": "sum", "rewards": [{"name": "judge", "weight": "much"}]}, "weight is 'much'"),
        ({"name": "sum", "rewards": [{"name": "judge", "normalise": "rnk"}]}, "'rnk': it must be .* or 'rank'"),
        ({"name": "sum", "rewards": [{"name": "judge", "clip": 3}]}, "clip is 3"),
        ({"name": "cached", "reward": "judge", "size": 0}, "size is 0"),
        ({"name": "product", "rewards": ["judge", {"name": "judge", "x": 1}]}, "'judge' has no option 'x'"),
        ({"name": "clip", "reward": {"name": "clip", "reward": "juge", "low": 0}, "low": 0}, "Did you mean 'judge'"),
    ],
    ids=str,
)  # fmt: skip
def test_mistakes_are_named_in_one_sentence(spec, message):
    with pytest.raises(RewardError, match=message) as caught:
        load_reward(spec)
    assert "\n" not in str(caught.value)


def test_on_the_command_line_weights_take_the_place_of_the_recipes_reward():
    config = load_config("emoji-compressibility", ["reward={jpeg-compressibility: 0.5, judge: 10}"])
    assert config.reward == {"jpeg-compressibility": 0.5, "judge": 10}
    assert config.name == "jpeg-compressibility-judge"
    assert load_config("emoji-judge", ["reward={judge: 2}", "reward=judge"]).reward == "judge"


def test_in_a_file_weights_take_the_place_of_what_it_extends_and_options_are_added(tmp_path):
    (tmp_path / "base.yaml").write_text("reward: {name: jpeg-compressibility, quality: 80}\n")
    (tmp_path / "sum.yaml").write_text(f"extends: {tmp_path}/base.yaml\nreward: {{judge: 10}}\n")
    (tmp_path / "more.yaml").write_text(f"extends: {tmp_path}/base.yaml\nreward: {{quality: 60}}\n")
    assert load_config(tmp_path / "sum.yaml").reward == {"judge": 10}
    assert load_config(tmp_path / "more.yaml").reward == {"name": "jpeg-compressibility", "quality": 60}


def test_a_repeatable_reward_loads_the_same_from_any_folder(tmp_path, monkeypatch):
    (tmp_path / "my.py").write_text(
        "def f(images, prompts, metadata, *, gain=1, reward=''):\n    return [gain] * len(prompts)\n"
    )
    spec = {
        "name": "sum",
        "rewards": [
            "judge",
            {"my.py:f": 2},
            {"name": "my.py:f", "gain": 3, "reward": "my.py:f", "weight": 4},
            {"reward": {"name": "cached", "reward": "my.py:f"}, "normalise": "rank"},
        ],
    }  # fmt: skip
    absolute = f"{tmp_path}/my.py:f"
    monkeypatch.chdir(tmp_path)
    repeatable = repeatable_spec(load_reward(spec))
    assert repeatable == {
        "name": "sum",
        "rewards": [
            "judge",
            {absolute: 2},
            {"name": absolute, "gain": 3, "reward": "my.py:f", "weight": 4},  # an option of f, not a reward
            {"reward": {"name": "cached", "reward": absolute}, "normalise": "rank"},
        ],
    }  # fmt: skip
    monkeypatch.chdir("/")
    config = parse_config({"reward": repeatable})
    again = load_reward(yaml.safe_load(config.to_yaml())["reward"])
    assert list(again.components) == ["judge", "f", "f-2", "f-3"]
    assert isinstance(again.components["f"], NamedReward)
    assert repeatable_spec({level: 2}) == {f"{__file__}:level": 2}
