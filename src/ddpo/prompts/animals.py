"""The animals of the paper: 45 common ones (F.7), the 398 of ImageNet, animals doing things (D.3), and hard ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TypeVar

from ddpo.core.prompt import Prompt
from ddpo.prompts.source import PromptSource
from ddpo.runtime.errors import PromptError, nearest

T = TypeVar("T")

# fmt: off
SIMPLE_ANIMALS = (
    "cat", "dog", "horse", "monkey", "rabbit", "zebra", "spider", "bird", "sheep",
    "deer", "cow", "goat", "lion", "tiger", "bear", "raccoon", "fox", "wolf",
    "lizard", "beetle", "ant", "butterfly", "fish", "shark", "whale", "dolphin", "squirrel",
    "mouse", "rat", "snake", "turtle", "frog", "chicken", "duck", "goose", "bee",
    "pig", "turkey", "fly", "llama", "camel", "bat", "gorilla", "hedgehog", "kangaroo",
)
"""The 45 common animals, in the order of the paper's table. Paper F.7."""
# fmt: on

HARD_ANIMALS = ("goat", "bird", "bat", "dog", "horse", "rabbit", "ant", "rat", "sheep")
"""The nine that the embedded model draws worst by the judge's recognition, worst first: 50 % to 88 % of 8 pictures
each (`embedded/MODEL_CARD.md`, where deer is no better than sheep)."""

PARTS = {"all": (0, 1, 2), "train": (0, 1), "held-out": (2,)}
"""Places in each three of `SIMPLE_ANIMALS` that a part takes: every third animal is held out."""

ACTIVITIES = {
    "paper": ("riding a bike", "playing chess", "washing dishes"),
    "reference-code": ("riding a bike", "playing chess", "washing the dishes"),
}
"""The three activities by wording: the paper's (D.3, Figure 6) and its public code's."""

_CONSONANT_SOUNDS = ("eu", "ewe", "one", "uni", "use", "uro")
_VOWEL_SOUNDS = ("heir", "honest", "honour", "honor", "hour")


def with_article(noun: str) -> str:
    """Return the noun behind its indefinite article: `a cat`, `an ant`, `a European gallinule`."""
    lower = noun.lower()
    vowel = lower.startswith(_VOWEL_SOUNDS) or (
        lower.startswith(tuple("aeiou")) and not lower.startswith(_CONSONANT_SOUNDS)
    )
    return f"{'an' if vowel else 'a'} {noun}"


def simple_animals(*, part: str = "all") -> PromptSource:
    """Return the 45 common animals, "a cat" ..., metadata `{"animal": "cat"}`. Paper F.7.

    `part` is a key of `PARTS`: the 30 to train on and the 15 held out show how training on some animals changes
    others (paper E.1). Raises PromptError when it is another.
    """
    places = _chosen("simple-animals", "part", part, PARTS)
    animals = [animal for place, animal in enumerate(SIMPLE_ANIMALS) if place % 3 in places]
    return _animals("simple-animals", animals, article=True)


def hard_animals() -> PromptSource:
    """Return the nine animals that the embedded model draws worst, "a goat" ..., metadata `{"animal": "goat"}`."""
    return _animals("hard-animals", HARD_ANIMALS, article=True)


def imagenet_animals(*, article: bool = True) -> PromptSource:
    """Return the 398 animals of ImageNet, "a tench" ..., metadata `{"animal": "tench"}`.

    They are classes 0 to 397, the prompts of the paper's (in)compressibility experiments. `article=False` gives
    the bare names, as the paper's public code does. Raises PromptError when it is neither true nor false.
    """
    if not isinstance(article, bool):
        raise PromptError(f"Prompts 'imagenet-animals': article must be true or false, not {article!r}.")
    text = resources.files("ddpo.prompts").joinpath("imagenet_animals.txt").read_text(encoding="utf-8")
    names = [line for line in text.splitlines() if not line.startswith("#")]
    return _animals("imagenet-animals", names, article)


def activities(*, wording: str = "paper") -> PromptSource:
    """Return the 45 animals times 3 activities, "a cat riding a bike" .... Paper D.3.

    Metadata: `{"animal": "cat", "activity": "riding a bike"}`. `wording` is a key of `ACTIVITIES`; raises
    PromptError when it is another.
    """
    prompts = [
        Prompt(f"{with_article(animal)} {activity}", {"animal": animal, "activity": activity})
        for animal in SIMPLE_ANIMALS
        for activity in _chosen("activities", "wording", wording, ACTIVITIES)
    ]
    return PromptSource("activities", tuple(prompts))


def _animals(name: str, animals: Sequence[str], article: bool) -> PromptSource:
    return PromptSource(name, tuple(Prompt(with_article(a) if article else a, {"animal": a}) for a in animals))


def _chosen(name: str, option: str, value: str, known: Mapping[str, T]) -> T:
    if value not in (valid := list(known)):
        raise PromptError(
            f"Prompts '{name}' have no {option} '{value}'.{nearest(str(value), valid)} Known: {', '.join(valid)}."
        )
    return known[value]
