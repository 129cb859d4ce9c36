"""HTTP requests of rewards that live on servers: a whole answer in time and of a limited size, or a `NoAnswerError`.

A token goes to the address that the user gave and nowhere else: no redirection is followed.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

LARGEST_ANSWER = 16_000_000
"""Bytes of an answer that are read at most: 100 000 scores, or what a broken server sends."""
T = TypeVar("T")


class NoAnswerError(Exception):
    """Why no whole answer came."""

    reached = True
    """False where there was no connection."""


class Answer(NamedTuple):
    """What came back."""

    status: int
    body: bytes
    retry_after: str
    """The header Retry-After; empty without one."""


def in_event_loop(function: Callable[[], Awaitable[T]]) -> T:
    """Return what an asynchronous function returns; an interrupt cancels what is under way.

    It runs in a thread of its own, since that of the caller may have an event loop, as in a notebook.
    """
    from anyio.from_thread import start_blocking_portal

    with start_blocking_portal() as portal:
        return portal.call(function)


async def exchange(
    address: str, body: bytes | None, *, token: str | None, seconds: float, proxies: bool = False
) -> Answer:
    """Return the answer to a POST of JSON, or without a body to a GET; all of it may take `seconds`.

    Half of them are for connecting. `proxies`: use those of the environment. Raises NoAnswerError when no answer came
    in time, it was cut off or too large, or the server was not reached.
    """
    import httpx2

    headers = {"Accept-Encoding": "identity", "Connection": "close", "Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    limits = httpx2.Timeout(None, connect=seconds / 2)
    verify = _certificates() if address.startswith("https") else False
    content = bytearray()
    try:
        async with (
            asyncio.timeout(seconds),
            httpx2.AsyncClient(timeout=limits, verify=verify, trust_env=proxies) as client,
            client.stream("GET" if body is None else "POST", address, content=body, headers=headers) as response,
        ):
            async for part in response.aiter_raw():
                content += part
                if len(content) > LARGEST_ANSWER:
                    raise NoAnswerError(f"an answer of more than {LARGEST_ANSWER // 1_000_000} MB")
            return Answer(response.status_code, bytes(content), response.headers.get("retry-after", ""))
    except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
        problem = NoAnswerError(f"no connection: {_reason(error)}")
        problem.reached = False
        raise problem from None
    except TimeoutError:
        raise NoAnswerError(f"no whole answer within {seconds:g} s") from None
    except httpx2.HTTPError:
        raise NoAnswerError("the answer was cut off, or it is no HTTP") from None


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Return what servers are verified by; it takes a tenth of a second to make."""
    return ssl.create_default_context()


def problem_of_address(url: str) -> str:
    """Return what keeps a text from being the address of a server; empty for an address."""
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0 or not url.isprintable():
            return "write http://host:port or https://host"
    except ValueError as error:
        return str(error)
    if parts.username is not None or parts.query or parts.fragment:
        return "an address has no password, query or fragment; a token is an option of its own"
    return ""


def _reason(error: BaseException | None) -> str:
    """Return the innermost reason why there is no connection: the library's own words hide it."""
    reason = "it does not answer"
    while error is not None:
        if isinstance(error, ConnectionRefusedError):
            return "connection refused"
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        error = error.__cause__ or error.__context__
    return reason[:1].lower() + reason[1:]
