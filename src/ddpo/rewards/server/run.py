"""Starting a reward server."""

from __future__ import annotations

import socket
from collections.abc import Callable
from importlib.util import find_spec

from ddpo.rewards import NamedReward
from ddpo.rewards.server import Limits
from ddpo.runtime.errors import ServingError

CONNECTIONS = 256
"""Requests at a time; more are refused with status 503, which clients try again."""
SECONDS_TO_FINISH = 10
"""For requests under way when the server is stopped."""


def serve(
    reward: NamedReward,
    *,
    host: str,
    port: int,
    token: str | None = None,
    limits: Limits | None = None,
    listening: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve a reward until interrupted; `listening` is told the address. Port 0 is any that is free.

    Raises:
        ServingError: a package of the extra `serve` is missing, or the address cannot be used.
    """
    check_packages()
    import uvicorn

    from ddpo.rewards.server.application import create_app

    app = create_app(reward, limits or Limits(), token)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=SECONDS_TO_FINISH,
        server_header=False,
    )
    with _bound(host, port) as bound:
        name = f"[{host}]" if ":" in host else host
        listening(f"http://{name}:{bound.getsockname()[1]}")
        uvicorn.Server(config).run(sockets=[bound])


def check_packages() -> None:
    """Raise ServingError unless what a server needs is installed."""
    missing = [package for package in ("fastapi", "uvicorn") if find_spec(package) is None]
    if missing:
        raise ServingError(
            f"A reward server needs {' and '.join(missing)}, which this environment lacks: "
            "pip install -e '.[serve]' in a clone of ddpo."
        )


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket that listens: who connects before the server answers waits instead of being refused."""
    try:
        family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server((host, port), family=family, backlog=CONNECTIONS)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ServingError(f"Cannot listen at {host}:{port}: {reason}; choose another --port or --host.") from None
