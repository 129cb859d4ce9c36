import math

import pytest
import torch

import ddpo.rewards.judge as judge_module
from ddpo.media import Image
from ddpo.rewards import load_reward, score
from ddpo.rewards.judge import animal_of
from ddpo.runtime.errors import RewardError

LABELS = ("cat", "fish", "bat", "rat", "goat", "goldfish", "bat ray", "other")


class FakeJudge:
    labels = LABELS

    def __call__(self, images):
        # exp(logits) = 1 2 1 0.5 2 0.5 0.5 2.5, sum 10 -> probabilities 0.1 0.2 0.1 0.05 0.2 0.05 0.05 0.25
        return torch.tensor([[1, 2, 1, 0.5, 2, 0.5, 0.5, 2.5]]).log().repeat(len(images), 1) + 4.0


@pytest.fixture(autouse=True)
def fake_judge(monkeypatch):
    monkeypatch.setattr(judge_module, "embedded_judge", FakeJudge)


def scores(name, prompts, metadata):
    return score(load_reward(name), Image(), torch.zeros(len(prompts), 3, 64, 64), prompts, metadata).tolist()


def test_probability_of_the_animal_in_the_metadata_or_the_prompt():
    got = scores("judge", ["x", "a goat in a field", "a rat"], [{"animal": "cat"}, {}, {"colour": "red"}])
    assert got == pytest.approx([0.1, 0.2, 0.05], abs=1e-6)


def test_large_logits_do_not_overflow(monkeypatch):
    class Sure(FakeJudge):
        def __call__(self, images):
            return torch.tensor([[1e4, 0.0, 0, 0, 0, 0, 0, math.log(2)]])

    monkeypatch.setattr(judge_module, "embedded_judge", Sure)
    assert scores("judge", ["a cat"], [{}]) == [1.0]


def test_recognition_is_the_first_choice_over_all_classes(monkeypatch):
    assert scores("judge-recognition", ["a fish", "a cat"], [{}, {}]) == [0.0, 0.0]  # "other" is first

    class Fish(FakeJudge):
        def __call__(self, images):
            return torch.tensor([[0.0, 3.0, 0, 0, 0, 0, 0, 1.0]]).repeat(len(images), 1)

    monkeypatch.setattr(judge_module, "embedded_judge", Fish)
    assert scores("judge-recognition", ["a fish", "a cat"], [{}, {}]) == [1.0, 0.0]


@pytest.mark.parametrize("name", ["judge", "judge-recognition"])
def test_logits_that_are_not_numbers_are_refused(monkeypatch, name):
    class Broken(FakeJudge):
        def __call__(self, images):
            return torch.tensor([[0.0] * 8, [float("nan")] * 8])

    monkeypatch.setattr(judge_module, "embedded_judge", Broken)
    with pytest.raises(RewardError, match=r"nan for sample 1, prompt 'a cat'"):
        scores(name, ["a cat", "a cat"], [{}, {}])


@pytest.mark.parametrize(
    ("prompt", "animal"),
    [
        ("a cat", "cat"),
        ("A Cat on a mat", "cat"),
        ("a goldfish", "goldfish"),
        ("a rat and a goat", "goat"),  # the longest
        ("a rat and a cat", "rat"),  # as long: the first
        ("a bat, riding a bike", "bat"),
        ("a cat with a shellfish", "cat"),  # "fish" is not a word of it
        ("a bat ray", "bat ray"),  # not the shorter "bat"
    ],
)
def test_the_animal_of_a_prompt(prompt, animal):
    assert animal_of(prompt, {}, LABELS) == animal


@pytest.mark.parametrize("prompt", ["a category", "a wildcat", "cats", "some other thing", "a dog"])
def test_a_prompt_without_a_known_animal_is_named(prompt):
    with pytest.raises(RewardError, match=f"'judge'.*'{prompt}'"):
        scores("judge", [prompt], [{}])


def test_metadata_with_an_unknown_animal_is_named():
    with pytest.raises(RewardError, match="does not know the animal 'tabby' of the prompt 'a tabby cat'"):
        scores("judge", ["a tabby cat"], [{"animal": "tabby"}])


def test_a_picture_s_score_does_not_depend_on_those_scored_with_it(monkeypatch):
    groups = []

    class Brightness(FakeJudge):
        def __call__(self, images):
            groups.append(len(images))
            return images.mean((1, 2, 3))[:, None] * torch.arange(8.0)

    monkeypatch.setattr(judge_module, "embedded_judge", Brightness)
    images = torch.arange(19).div(255)[:, None, None, None].expand(19, 3, 4, 4)
    together = score(load_reward("judge"), Image(), images, ["a goat"] * 19, [{}] * 19)
    alone = [score(load_reward("judge"), Image(), image[None], ["a goat"], [{}])[0] for image in images]
    assert together.tolist() == alone
    assert set(groups) == {8}
    assert len(set(alone)) == 19
    assert score(load_reward("judge"), Image(), images[:0], [], []).shape == (0,)
