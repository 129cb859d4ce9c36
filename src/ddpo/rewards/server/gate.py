"""What is refused before it is read: a missing token, a body that is too large or too slow."""

from __future__ import annotations

import asyncio
import hmac
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from ddpo.rewards.remote.protocol import Problem
from ddpo.rewards.server import Limits

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN_PATHS = ("/health", "/docs", "/openapi.json")
"""Answered without a token: whether the server is there, and how to talk to it."""
DRAINED = 4
"""Times the allowed size that is read of a larger body and thrown away: who still sends does not read the refusal."""


class _RefusedError(Exception):
    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Gate:
    """ASGI middleware: checks the token, then reads the whole body within the limits and hands it on."""

    def __init__(self, app: ASGIApp, *, token: str | None, limits: Limits) -> None:
        self._app, self._token, self._limits = app, token, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a refusal or pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            if scope["path"] not in OPEN_PATHS:
                self._check_token(Headers(scope=scope).get("authorization", ""))
            body = await self._body(receive)
        except _RefusedError as refusal:
            headers = {"connection": "close"} | ({"www-authenticate": "Bearer"} if refusal.status == 401 else {})
            answer = JSONResponse(Problem(error=str(refusal)).model_dump(), refusal.status, headers)
            await answer(scope, receive, send)
            return
        if body is not None:
            await self._app(scope, _replayed(body, receive), send)

    def _check_token(self, authorization: str) -> None:
        if self._token is None:
            return
        given = authorization.removeprefix("Bearer ").encode("utf-8", "surrogateescape")
        if not authorization.startswith("Bearer ") or not hmac.compare_digest(given, self._token.encode()):
            raise _RefusedError(401, "The token is missing or wrong: send the header 'Authorization: Bearer TOKEN'.")

    async def _body(self, receive: Receive) -> bytes | None:
        """Return the body; None when the client went away."""
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                return await self._read(receive)
        except TimeoutError:
            raise _RefusedError(408, f"The request did not arrive within {self._limits.body_seconds:g} s.") from None

    async def _read(self, receive: Receive) -> bytes | None:
        largest, parts, size = self._limits.max_body_bytes, list[bytes](), 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            part = message.get("body", b"")
            size += len(part)
            if size <= largest:
                parts.append(part)
            else:
                parts.clear()
            if not message.get("more_body", False) or size > DRAINED * largest:
                break
        if size > largest:
            raise _RefusedError(
                413, f"The request is larger than the {largest / 1e6:g} MB allowed: send fewer or smaller images."
            )
        return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body once, and then what comes after it."""
    left = [body]

    async def replay() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return replay
