"""Questions about pictures: which answers agree, by hand, and the reward that counts them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from ddpo.media import Image
from ddpo.prompts import load_prompts
from ddpo.rewards import load_reward, score
from ddpo.rewards.vqa import Question, agrees, questions_of
from ddpo.runtime.errors import RewardError

HOW_MANY = {"question": "How many cats are there?", "answer": "3"}
COLOUR = {"question": "What colour are they?", "answer": "black"}


@pytest.mark.parametrize(
    ("answer", "expected", "same"),
    [
        ("3", "3", True),
        ("There are three cats in the image.", "3", True),
        ("There are THREE, I think", "three", True),
        ("3 cats", "three", True),
        ("13", "3", False),
        ("There are thirteen cats.", "3", False),
        ("twenty-three", "3", False),
        ("twenty three", "23", True),
        ("Ninety-nine.", "99", True),
        ("one hundred cats", "1", False),
        ("1,000 cats", "1000", True),
        ("1,000 cats", "1", False),
        ("3.5", "3", False),
        ("2 or 3 cats", "3", False),  # it hedges
        ("3 cats: 1 black, 2 white", "3", True),
        ("3 cats: 1 black, 2 white", "2", False),
        ("There are some cats.", "3", False),
        ("the third", "3", False),
        ("Yes.", "yes", True),
        ("Yes, there is no dog.", "yes", True),
        ("Yes, there is no dog.", "no", False),
        ("There is no cat.", "no", True),
        ("Nothing", "no", False),
        ("A black cat", "Black", True),
        ("A blackbird", "black", False),
        ("They are riding a bike.", "riding a bike", True),
        ("A bike; nobody is riding a horse.", "riding a bike", False),
        ("three black cats", "3 black cats", True),
        ("", "black", False),
    ],
)
def test_an_answer_agrees_by_its_whole_words(answer, expected, same):
    assert agrees(answer, expected) is same


class Scripted:
    """Says what `said` holds for the level of red (of 255) in a picture and the question; keeps what it was asked."""

    def __init__(self, said):
        self.said, self.asked = said, []

    def __call__(self, images, question):
        reds = (images[:, 0, 0, 0] * 255).round().int().tolist()
        self.asked.append((question, reds))
        return [self.said[red, question] for red in reds]


@pytest.fixture
def describer(monkeypatch):
    how_many, colour = HOW_MANY["question"], COLOUR["question"]
    scripted = Scripted(
        {
            (0, how_many): " There are three.\n", (0, colour): "They are black.",
            (1, how_many): "three", (1, colour): "white",
            (2, how_many): "2", (2, colour): "white and grey",
            (3, how_many): "3",
            (4, how_many): " ",
        }
    )  # fmt: skip
    monkeypatch.setattr("ddpo.rewards.vqa.Describer", lambda *a, **k: scripted)
    return scripted


def asked_about(*reds):
    return torch.tensor([[r, 0, 0] for r in reds]).div(255).view(-1, 3, 1, 1).expand(-1, 3, 4, 4)


def metadata(*questions):
    return {"questions": list(questions)}


@pytest.mark.parametrize(("strict", "expected"), [(True, [1, 1, 0, 0]), (False, [1, 1, 0.5, 0])])
def test_the_reward_is_one_where_all_answers_agree_or_their_share(describer, strict, expected, tmp_path):
    log = tmp_path / "answers.jsonl"
    reward = load_reward({"name": "vqa", "strict": strict, "log": str(log)})
    both, one = metadata(HOW_MANY, COLOUR), metadata(HOW_MANY)
    got = score(reward, Image(), asked_about(3, 0, 1, 2), list("abcd"), [one, both, both, both])
    assert got.tolist() == expected
    assert got.dtype == np.float64
    # each question is put once to all of its pictures, and to no other
    assert describer.asked == [(HOW_MANY["question"], [3, 0, 1, 2]), (COLOUR["question"], [0, 1, 2])]
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(rows) == 7
    assert rows[4] == {
        "prompt": "c", "question": COLOUR["question"], "expected": "black", "answer": "white", "agrees": False
    }  # fmt: skip


def test_an_empty_answer_is_an_error_and_never_a_zero(describer):
    with pytest.raises(RewardError, match=r"^Reward 'vqa': describer: .*said nothing about the picture for 'b'"):
        score(load_reward("vqa"), Image(), asked_about(3, 4), ["a", "b"], [metadata(HOW_MANY)] * 2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, r"the prompt 'a' has no questions; give its metadata 'questions'.*'counting'\.$"),
        ({"questions": []}, "has no questions"),
        ({"questions": "How many?"}, "has no questions"),
        ({"questions": ["How many?"]}, r"has the question 'How many\?'; give {question: text"),
        ({"questions": [{"question": "How many?"}]}, "has the question"),
        ({"questions": [{"question": " ", "answer": "3"}]}, "has the question"),
        ({"questions": [{"question": "How many?", "answer": " ?"}]}, "has the question"),
    ],
    ids=str,
)
def test_a_prompt_without_questions_is_named(describer, wrong, message):
    with pytest.raises(RewardError, match=f"^Reward 'vqa': .*{message}"):
        score(load_reward("vqa"), Image(), asked_about(0), ["a"], [wrong])


def test_answers_in_a_configuration_may_be_numbers_or_yes_and_no():
    questions = [{"question": "x?", "answer": answer} for answer in (3, True, False, "grey")]
    assert questions_of("a", {"questions": questions}) == [
        Question("x?", answer) for answer in ("3", "yes", "no", "grey")
    ]


def test_the_prompts_counting_ask_what_the_reward_can_answer(monkeypatch):
    prompts = load_prompts("counting").prompts[:3]  # two, three and four cats
    scripted = Scripted({(red, "How many cats are there?"): "There are three cats." for red in range(3)})
    monkeypatch.setattr("ddpo.rewards.vqa.Describer", lambda *a, **k: scripted)
    got = score(
        load_reward("vqa"), Image(), asked_about(0, 1, 2), [p.text for p in prompts], [p.metadata for p in prompts]
    )
    assert got.tolist() == [0, 1, 0]
