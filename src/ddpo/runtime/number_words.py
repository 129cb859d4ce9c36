"""Numbers from zero to ninety-nine in English words."""

from __future__ import annotations

import re

# fmt: off
_BELOW_TWENTY = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
# fmt: on
NUMBER_WORDS = (
    *_BELOW_TWENTY,
    *(f"{ten}-{unit}" if unit != "zero" else ten for ten in _TENS for unit in _BELOW_TWENTY[:10]),
)
"""The words of each number at its own place: `NUMBER_WORDS[23]` is `twenty-three`."""
_ANY = "|".join(word.replace("-", "[- ]") for word in reversed(NUMBER_WORDS))  # seventy-six before seventy before seven
_NUMBER = re.compile(rf"\b(?:{_ANY})\b(?![- ](?:hundred|thousand))")


def with_digits(text: str) -> str:
    """Return lower-case `text` with digits for its number words: `twenty three cats` becomes `23 cats`.

    What is multiplied by hundred or thousand stays in words.
    """
    return _NUMBER.sub(lambda match: str(NUMBER_WORDS.index(match[0].replace(" ", "-"))), text)
