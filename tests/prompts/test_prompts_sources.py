import re
from importlib import resources

import pytest
import torch

from ddpo.prompts import Prompt, available_prompts, load_prompts, plural, with_article
from ddpo.rewards import load_reward
from ddpo.runtime.errors import PromptError, RewardError

# The table of F.7 read row by row, typed from the paper independently of the code: alphabetical here.
F7 = """
    ant bat bear bee beetle bird butterfly camel cat chicken cow deer dog dolphin duck
    fish fly fox frog goat goose gorilla hedgehog horse kangaroo lion lizard llama monkey mouse
    pig rabbit raccoon rat shark sheep snake spider squirrel tiger turkey turtle whale wolf zebra
"""


def texts(source):
    return [prompt.text for prompt in source.prompts]


def test_simple_animals():
    source = load_prompts("simple-animals")
    assert len(source) == 45
    assert {prompt.metadata["animal"] for prompt in source.prompts} == set(F7.split())
    assert source.prompts[0] == Prompt("a cat", {"animal": "cat"})
    assert [t for t in texts(source) if t.startswith("an ")] == ["an ant"]
    assert source.name == "simple-animals"


def test_simple_animals_are_cut_into_those_to_train_on_and_those_held_out():
    everything = texts(load_prompts({"name": "simple-animals", "part": "all"}))
    train = texts(load_prompts({"name": "simple-animals", "part": "train"}))
    held_out = texts(load_prompts({"name": "simple-animals", "part": "held-out"}))
    assert (len(train), len(held_out)) == (30, 15)
    assert sorted(train + held_out) == sorted(everything)
    assert everything == texts(load_prompts("simple-animals"))
    # the last of each three in the rows of F.7, read from the paper
    assert held_out == [
        *("a horse", "a zebra", "a sheep", "a goat", "a bear", "a wolf", "an ant", "a shark", "a squirrel"),
        *("a snake", "a chicken", "a bee", "a fly", "a bat", "a kangaroo"),
    ]


def test_hard_animals_are_the_worst_of_the_model_card():
    card = resources.files("ddpo.embedded").joinpath("MODEL_CARD.md").read_text()
    worst = re.findall(r"(\w+) (\d+)%", re.search(r"Worst animals: (.*)", card)[1])
    shares = [int(share) for _, share in worst]
    assert shares == sorted(shares)
    source = load_prompts("hard-animals")
    assert [prompt.metadata["animal"] for prompt in source.prompts] == [animal for animal, _ in worst[:9]]
    assert texts(source)[0] == "a goat"
    assert set(F7.split()) > {prompt.metadata["animal"] for prompt in source.prompts}


def test_everyday_objects_are_no_animals():
    source = load_prompts("everyday-objects")
    things = [prompt.metadata["object"] for prompt in source.prompts]
    assert len(set(things)) == 20
    assert not set(things) & set(F7.split())
    articles = {prompt.text.split(" ")[0] for prompt in source.prompts if prompt.metadata["object"][0] in "aeiou"}
    assert articles == {"an"}
    assert {"a house", "an umbrella", "an automobile"} < set(texts(source))
    with pytest.raises(RewardError, match="names no animal that the judge knows"):
        load_reward("judge").function(torch.zeros(20, 3, 64, 64), texts(source), [p.metadata for p in source.prompts])


def test_imagenet_animals():
    source = load_prompts("imagenet-animals")
    names = [prompt.metadata["animal"] for prompt in source.prompts]
    assert len(set(names)) == 398
    # Class indices known from torchvision's and Keras' class lists.
    known = {0: "tench", 1: "goldfish", 151: "Chihuahua", 207: "golden retriever", 281: "tabby", 340: "zebra"}
    known |= {385: "Indian elephant", 388: "giant panda", 397: "puffer"}
    assert {index: names[index] for index in known} == known
    assert texts(source)[0] == "a tench"
    assert texts(source)[385] == "an Indian elephant"
    assert all(re.fullmatch(r"an? [A-Za-z' -]+", text) for text in texts(source))


def test_imagenet_animals_as_in_the_public_code():
    assert texts(load_prompts({"name": "imagenet-animals", "article": False}))[:2] == ["tench", "goldfish"]


@pytest.mark.parametrize(
    "text",
    [
        "a cat",
        "an ant",
        "an ox",
        "a hen",
        "an eel",
        "an ibex",
        "an otter",
        "an impala",
        "an ostrich",
        "an American egret",
        "a European gallinule",
        "a European fire salamander",
        "an Egyptian cat",
        "an electric ray",
        "an Old English sheepdog",
        "a unicorn",
        "a ewe",
        "an urchin",
        "an Airedale",
        "a hyena",
        "an umbrella bird",
        "an emu",
        "a uromastyx",
    ],
)
def test_articles(text):
    assert with_article(text.split(" ", 1)[1]) == text


def test_activities():
    source = load_prompts("activities")
    assert len(source) == 135
    assert source.prompts[0] == Prompt("a cat riding a bike", {"animal": "cat", "activity": "riding a bike"})
    assert "an ant washing dishes" in texts(source)
    assert "a monkey playing chess" in texts(source)
    reference = load_prompts({"name": "activities", "wording": "reference-code"})
    assert "an ant washing the dishes" in texts(reference)
    assert "an ant washing dishes" not in texts(reference)


# The plurals of F7, in its order, typed from a dictionary.
PLURALS = """
    ants bats bears bees beetles birds butterflies camels cats chickens cows deer dogs dolphins ducks
    fish flies foxes frogs goats geese gorillas hedgehogs horses kangaroos lions lizards llamas monkeys mice
    pigs rabbits raccoons rats sharks sheep snakes spiders squirrels tigers turkeys turtles whales wolves zebras
"""


def test_plurals():
    assert [plural(animal) for animal in F7.split()] == PLURALS.split()
    assert [plural(noun) for noun in ("ostrich", "walrus", "pony", "ray")] == [
        "ostriches",
        "walruses",
        "ponies",
        "rays",
    ]


def test_counted_animals():
    source = load_prompts("counting")
    assert len(source) == 45 * 8
    assert len(set(texts(source))) == 360
    questions = [{"question": "How many cats are there?", "answer": "3"}]
    assert source.prompts[1] == Prompt("three cats", {"animal": "cat", "count": 3, "questions": questions})
    assert {"two mice", "nine butterflies", "seven sheep"} < set(texts(source))
    assert {prompt.metadata["animal"] for prompt in source.prompts} == set(F7.split())
    assert texts(load_prompts({"name": "counting", "low": 21, "high": 21}))[0] == "twenty-one cats"


def test_a_text_file(tmp_path):
    path = tmp_path / "my.txt"
    path.write_bytes("\ufeff# animals\n\n  a cat \r\na café, #1\n".encode())
    source = load_prompts(str(path))
    assert source.prompts == (Prompt("a cat"), Prompt("a café, #1"))
    assert source.name == str(path)


def test_a_jsonl_file(tmp_path):
    path = tmp_path / "my.jsonl"
    path.write_text('{"prompt": "a cat", "animal": "cat", "n": 2}\n\n{"prompt": "a\u2028dog"}\n', encoding="utf-8")
    assert load_prompts(path).prompts == (Prompt("a cat", {"animal": "cat", "n": 2}), Prompt("a\u2028dog", {}))


def test_an_inline_list():
    source = load_prompts(["a cat", {"prompt": "a dog", "animal": "dog"}])
    assert source.prompts == (Prompt("a cat"), Prompt("a dog", {"animal": "dog"}))
    assert load_prompts(source) is source


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"prompt": "a cat"}\n{"prompt": \n', r"a\.jsonl', line 2: not JSON"),
        ("a.jsonl", '\n"a cat"\n', r"a\.jsonl', line 2: expected an object"),
        ("a.jsonl", '{"promt": "a cat"}', r"line 1: no key 'prompt'\."),
        ("a.jsonl", '{"prompt": 3}', r"line 1: a prompt must be text"),
        ("a.jsonl", '{"prompt": " "}', r"line 1: a prompt must be text"),
        ("a.txt", "# nothing\n\n", r"a\.txt' hold no prompt"),
        ("a.txt", b"\xff\xfe\xff", r"a\.txt', line 1: not UTF-8 text"),
        ("a.csv", "a cat", r"expected a \.txt or \.jsonl"),
    ],
)
def test_mistakes_in_files_are_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(PromptError, match=message):
        load_prompts(str(path))


def test_a_missing_file_names_the_nearest(tmp_path):
    (tmp_path / "animals.txt").write_text("a cat\n")
    with pytest.raises(PromptError, match=r"no such file\. Did you mean 'animals.txt'"):
        load_prompts(str(tmp_path / "animal.txt"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("simple-animal", "Unknown prompts.*Did you mean 'simple-animals'"),
        ({"name": "activities", "wordng": "paper"}, "no option 'wordng'. Did you mean 'wording'"),
        ({"name": "activities", "wording": "papr"}, "no wording 'papr'. Did you mean 'paper'"),
        ({"name": "hard-animals", "x": 1}, "have no options"),
        ({"name": "counting", "low": 1}, "count from 1 to 9; give whole numbers, 2 <= low <= high <= 99"),
        ({"name": "counting", "low": 5, "high": 4}, "count from 5 to 4"),
        ({"name": "counting", "high": "ten"}, "count from 2 to 'ten'"),
        ({"name": "simple-animals", "part": "heldout"}, "no part 'heldout'. Did you mean 'held-out'"),
        ({"x": 1}, "need a 'name'"),
        ([], "hold no prompt"),
        (["a cat", ""], "entry 2: a prompt must be text"),
        (["a cat", 5], "entry 2: a prompt must be text"),
    ],
    ids=str,
)
def test_mistakes_in_the_configuration_are_named(spec, message):
    with pytest.raises(PromptError, match=message):
        load_prompts(spec)


def test_every_listed_source_loads():
    for name, description in available_prompts():
        assert load_prompts(name).name == name
        assert "\n" not in description
