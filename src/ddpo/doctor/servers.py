"""The reward servers of a configuration: where they stand in it, and whether they answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from ddpo.doctor.checks import Outcome, ok
from ddpo.rewards import load_reward
from ddpo.rewards.registry import REMOTE
from ddpo.rewards.remote import SCHEMES

_OPTIONS = ("token", "timeout")
"""Options of a remote reward that matter for a first word with its server."""


def servers(rewards: Iterable[Any]) -> dict[str, dict[str, Any]]:
    """Return, by address, what loads the reward of every server that the rewards of a configuration name."""
    return dict(chain.from_iterable(map(_servers_of, rewards)))


def look_at_server(spec: dict[str, Any]) -> Outcome:
    """Ask a reward server what it serves."""
    return ok(f"{spec['url']} answers and serves: {load_reward(spec).label}")


def _servers_of(reward: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the servers of a reward, which may be a sum, or a wrapper, of others."""
    if isinstance(reward, str) and reward.startswith(SCHEMES):
        yield reward, {"name": REMOTE, "url": reward}
    if not isinstance(reward, Mapping):
        return
    options = {key: reward[key] for key in _OPTIONS if key in reward}
    for url in _addresses(reward):
        yield url, {"name": REMOTE, "url": url, **options}
    for part in _parts(reward):
        yield from _servers_of(part)


def _addresses(reward: Mapping[Any, Any]) -> list[str]:
    """Return the addresses of a remote reward with options; nothing for another one."""
    name, url = reward.get("name"), reward.get("url", [])
    if isinstance(name, str) and name.startswith(SCHEMES):
        return [name]
    if name != REMOTE:
        return []
    return [url] if isinstance(url, str) else [str(each) for each in url]


def _parts(reward: Mapping[Any, Any]) -> list[Any]:
    """Return the rewards that a mapping is made of: the keys of a weighted sum, what a combinator combines or wraps."""
    if not {"name", "reward", "rewards"} & set(reward):
        return list(reward)
    several = reward.get("rewards")
    return [reward.get("reward"), *(several if isinstance(several, list) else [])]
