"""Counted animals: "three cats", with the question that tells whether there are three."""

from __future__ import annotations

import re

from ddpo.core.prompt import Prompt
from ddpo.prompts.animals import SIMPLE_ANIMALS
from ddpo.prompts.source import PromptSource
from ddpo.runtime.errors import PromptError
from ddpo.runtime.number_words import NUMBER_WORDS

_IRREGULAR = {
    **{same: same for same in ("deer", "fish", "sheep")},
    **{"goose": "geese", "mouse": "mice", "wolf": "wolves"},
}


def plural(noun: str) -> str:
    """Return the plural of an animal of `SIMPLE_ANIMALS`, or of a noun that forms it by the same rules."""
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    if re.search("[^aeiou]y$", noun):
        return f"{noun[:-1]}ies"
    return f"{noun}es" if re.search("(s|x|z|ch|sh)$", noun) else f"{noun}s"


def counting(*, low: int = 2, high: int = 9) -> PromptSource:
    """Return the 45 common animals `low` to `high` times, "two cats" ..., with what the reward `vqa` asks.

    Metadata: `{"animal": "cat", "count": 2, "questions": [{"question": "How many cats are there?", "answer": "2"}]}`.
    The "n animals" of the paper's blog post. Raises PromptError unless 2 <= low <= high <= 99.
    """
    if not (isinstance(low, int) and isinstance(high, int) and 2 <= low <= high < len(NUMBER_WORDS)):
        raise PromptError(
            f"Prompts 'counting' count from {low!r} to {high!r}; give whole numbers, 2 <= low <= high <= "
            f"{len(NUMBER_WORDS) - 1}."
        )
    prompts = [_prompt(animal, count) for animal in SIMPLE_ANIMALS for count in range(low, high + 1)]
    return PromptSource("counting", tuple(prompts))


def _prompt(animal: str, count: int) -> Prompt:
    animals = plural(animal)
    questions = [{"question": f"How many {animals} are there?", "answer": str(count)}]
    return Prompt(f"{NUMBER_WORDS[count]} {animals}", {"animal": animal, "count": count, "questions": questions})
