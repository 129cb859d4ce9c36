"""Rewards of a server, over HTTP: JSON with PNG pictures both ways agree on (`protocol`), never a pickle.

`client` spreads the samples of a call over servers, `link` talks to one server, `exchange` is one HTTP request.
"""

from ddpo.rewards.remote.client import SCHEMES, load_remote
from ddpo.rewards.remote.pictures import PictureError, open_png, pixels_of, to_png
from ddpo.rewards.remote.protocol import (
    PROTOCOL,
    TOKEN_VARIABLE,
    Info,
    ItemFailure,
    ItemScore,
    Problem,
    ScoreItem,
    ScoreRequest,
    ScoreResponse,
)

__all__ = [
    "PROTOCOL",
    "SCHEMES",
    "TOKEN_VARIABLE",
    "Info",
    "ItemFailure",
    "ItemScore",
    "PictureError",
    "Problem",
    "ScoreItem",
    "ScoreRequest",
    "ScoreResponse",
    "load_remote",
    "open_png",
    "pixels_of",
    "to_png",
]
