"""Pieces of a Markdown page: tables, means with their intervals, verdicts in words."""

from __future__ import annotations

from collections.abc import Sequence

from ddpo.experiments.definition import Claim
from ddpo.report.intervals import Mean


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; the first column is set left, the others right."""
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def bullets(sentences: Sequence[str]) -> str:
    """Return a Markdown list."""
    return "\n".join(f"- {sentence}" for sentence in sentences)


def verdict(claim: Claim, difference: Mean) -> str:
    """Say whether a claim holds, given the mean difference left minus right, paired by seed."""
    if difference.number == 1:
        return "one seed: no interval"
    if difference.low > 0:
        return "holds"
    if difference.high < 0:
        return "does not hold: it is the other way round"
    return "not decided: the interval includes 0" if claim.strict else "not contradicted: no clear difference"


def direction(difference: Mean) -> str:
    """Say in one word which way a difference goes, if it is clear."""
    if difference.number == 1:
        return "changed (one seed, no interval)"
    if not difference.is_clear:
        return "did not clearly change"
    return "rose" if difference.mean > 0 else "fell"


def counted(texts: Sequence[str]) -> str:
    """Return `5 times “holds”, once “not decided”`, most frequent first."""
    kinds = sorted(set(texts), key=lambda text: (-texts.count(text), text))
    return ", ".join(f"{_times(texts.count(kind))} “{kind}”" for kind in kinds)


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
