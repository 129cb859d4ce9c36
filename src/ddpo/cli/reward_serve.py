"""`ddpo reward serve`: a reward as an HTTP server."""

from __future__ import annotations

import ipaddress
from typing import Annotated

import typer


def serve(
    reward: Annotated[
        str,
        typer.Argument(metavar="NAME", help="A name, my.py:function, or '{name: ..., option: ...}'."),
    ],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    host: Annotated[str, typer.Option(help="0.0.0.0: also for other machines; then set a token.")] = "127.0.0.1",
    token: Annotated[
        str | None, typer.Option(envvar="DDPO_REWARD_TOKEN", help="Clients must send it.", show_envvar=True)
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, help="Samples scored at once, and in a request.")] = 64,
    max_pixels: Annotated[int, typer.Option(min=1, help="Width times height of an image.")] = 2048 * 2048,
    max_body: Annotated[float, typer.Option(min=0.001, metavar="MB", help="Size of a request.")] = 64.0,
    max_wait: Annotated[
        float, typer.Option(min=0, metavar="MS", help="A batch waits so long for other requests' samples.")
    ] = 5.0,
) -> None:
    """Serve a reward over HTTP until interrupted; a run uses it with reward=http://HOST:PORT."""
    from ddpo.cli.values import parsed
    from ddpo.rewards import NamedReward, check_media, load_reward
    from ddpo.rewards.server import Limits
    from ddpo.rewards.server.run import check_packages
    from ddpo.rewards.server.run import serve as run
    from ddpo.runtime.errors import RewardError

    check_packages()
    served = load_reward(parsed(reward))
    if not isinstance(served, NamedReward):
        raise RewardError(
            f"Reward '{served.key}' combines others over a whole iteration: serve those, combine in the run."
        )
    check_media(served, "image")
    limits = Limits(
        max_batch=max_batch, max_pixels=max_pixels, max_body_bytes=int(max_body * 1e6), wait_seconds=max_wait / 1000
    )
    if token is None and not _is_loopback(host):
        typer.echo(f"Warning: without a token anyone who reaches {host}:{port} can use this server.", err=True)

    def listening(url: str) -> None:
        typer.echo(f"Serving '{served.name}' at {url}  (how to use it: {url}/docs)")

    run(served, host=host, port=port, token=token or None, limits=limits, listening=listening)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
