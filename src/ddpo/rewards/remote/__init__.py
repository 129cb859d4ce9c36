"""Rewards of a server, over HTTP: JSON with PNG pictures both ways agree on (`protocol`), never a pickle.

`client` spreads the samples of a call over servers, `pictures` is how they travel.
"""

from ddpo.rewards.remote.client import SCHEMES, load_remote

__all__ = ["SCHEMES", "load_remote"]
