"""Conditions on metrics: `evaluation/kl_to_base > 60`."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_FORM = re.compile(r"\s*([\w./:-]+)\s*(>=|<=|>|<)\s*(\S+)\s*")
_SIGNS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}


@dataclass(frozen=True)
class Condition:
    """A metric compared with a number."""

    metric: str
    sign: str
    bound: float

    def holds(self, metrics: Mapping[str, float]) -> bool:
        """Return whether it is fulfilled; not in iterations that do not measure the metric."""
        return self.metric in metrics and _SIGNS[self.sign](metrics[self.metric], self.bound)

    def __str__(self) -> str:
        return f"{self.metric} {self.sign} {self.bound:g}"


def parse_condition(text: str) -> Condition:
    """Return the condition that a text stands for.

    Raises:
        ValueError: it is not a metric, a sign and a number.
    """
    match = _FORM.fullmatch(text)
    try:
        if match is None or not math.isfinite(float(match[3])):
            raise ValueError
        return Condition(match[1], match[2], float(match[3]))
    except ValueError:
        raise ValueError(
            f"'{text}' is no condition; give a metric, >, <, >= or <=, and a number, such as "
            "'evaluation/kl_to_base > 60'"
        ) from None
