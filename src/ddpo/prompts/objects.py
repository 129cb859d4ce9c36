"""Everyday objects: what no animal prompt asks for, to see how far training on animals reaches (paper E.1)."""

from __future__ import annotations

from ddpo.core.prompt import Prompt
from ddpo.prompts.animals import with_article
from ddpo.prompts.source import PromptSource

EVERYDAY_OBJECTS = (
    *("automobile", "balloon", "banana", "bed", "bus", "camera", "cookie", "envelope", "hamburger", "house"),
    *("lemon", "mushroom", "peach", "strawberry", "telephone", "television", "tomato", "train", "umbrella", "watch"),
)
"""Twenty single words of the emoji catalogue that the embedded model was trained on too, with 6 to 11 drawings each,
and draws at least in shape and colour."""


def everyday_objects() -> PromptSource:
    """Return the twenty everyday objects, "an automobile" ..., metadata `{"object": "automobile"}`."""
    prompts = [Prompt(with_article(thing), {"object": thing}) for thing in EVERYDAY_OBJECTS]
    return PromptSource("everyday-objects", tuple(prompts))
