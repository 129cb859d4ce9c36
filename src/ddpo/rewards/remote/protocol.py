"""What a reward server and its clients say to each other: typed JSON, the same models on both sides.

`GET /info` gives `Info`. `POST /score` takes `ScoreRequest` and gives `ScoreResponse`: status 200 with a score for
every item, status 500 when the reward failed for some of them. Every other refusal is a `Problem`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, JsonValue

PROTOCOL = 1
"""Number of this protocol; a client and a server with different numbers refuse each other."""

TOKEN_VARIABLE = "DDPO_REWARD_TOKEN"
"""Environment variable with the token, for servers and clients that are not given one."""

Id = Annotated[str, Field(min_length=1, max_length=100)]
Protocol = Annotated[int, Field(ge=PROTOCOL, le=PROTOCOL)]


class _Sent(BaseModel):
    """Taken literally: no text becomes a number. A field nobody knows is a mistake in a request."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Answered(BaseModel):
    """Taken literally as well, but with room for fields of later servers."""

    model_config = ConfigDict(frozen=True, strict=True)


class ScoreItem(_Sent):
    """One sample."""

    id: Id
    """Chosen by the client, unique in its request; the score comes back under it."""
    image: str
    """A PNG file, 8 bits a channel, in base64."""
    prompt: Annotated[str, Field(max_length=10_000)]
    """What the sample was drawn for."""
    metadata: dict[str, JsonValue] = {}
    """What the prompt source says of the prompt."""


class ScoreRequest(_Sent):
    """Samples to score."""

    items: Annotated[list[ScoreItem], Field(min_length=1)]


class ItemScore(_Answered):
    """The score of one item."""

    id: Id
    score: FiniteFloat


class ItemFailure(_Answered):
    """An item the reward could not score."""

    id: Id
    error: str


class ScoreResponse(_Answered):
    """The scores of a request's items; with status 500 also the items without one."""

    protocol: Protocol
    reward: str
    version: str
    scores: list[ItemScore]
    failed: list[ItemFailure] = []
    error: str | None = None
    """One sentence on the first failure."""


class Info(_Answered):
    """What a server serves."""

    protocol: Protocol
    reward: str
    """As in a configuration, e.g. `jpeg-compressibility` or `my.py:redness`."""
    label: str
    """Words with the unit for tables and figures."""
    version: str
    """Differs when the reward may give other scores: another package, options or source file."""
    package_version: str
    """Of `ddpo` on the server."""
    max_items: int = Field(ge=1)
    """Items that one request may hold."""


class Problem(_Answered):
    """A request that was refused."""

    error: str
    """One sentence: what, where and what to do."""
