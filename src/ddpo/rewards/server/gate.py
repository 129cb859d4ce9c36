"""What is refused before it is read: a missing token, a body that is too large or too slow."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from ddpo.rewards.server import Limits

OPEN_PATH = "/health"
"""Answered without a token, as are `/docs` and `/openapi.json`: whether the server is there, and how to talk to it."""
DRAINED = 4
"""Times the allowed size that is read of a larger body and thrown away: who still sends does not read the refusal."""


class Gate(APIRoute):
    """Checks the token, then has the body read within the limits: `app.state` has `token` and `limits`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        answer = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            token, given = request.app.state.token, request.headers.get("authorization", "")
            known = token is None or hmac.compare_digest(given.encode("latin-1"), f"Bearer {token}".encode())
            if not known and request.url.path != OPEN_PATH:
                sentence = "The token is missing or wrong: send the header 'Authorization: Bearer TOKEN'."
                raise HTTPException(401, sentence, {"connection": "close", "www-authenticate": "Bearer"})
            return await answer(_LimitedRequest(request.scope, request.receive))

        return guarded


class _LimitedRequest(Request):
    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            limits: Limits = self.app.state.limits
            try:
                async with asyncio.timeout(limits.body_seconds):
                    self._body = await self._read(limits.max_body_bytes)
            except TimeoutError:
                sentence = f"The request did not arrive within {limits.body_seconds:g} s."
                raise HTTPException(408, sentence, {"connection": "close"}) from None
        return self._body

    async def _read(self, largest: int) -> bytes:
        content, size = bytearray(), 0
        async for part in self.stream():
            size += len(part)
            if size <= largest:
                content += part
            elif size > DRAINED * largest:
                break
        if size > largest:
            sentence = f"The request is larger than the {largest / 1e6:g} MB allowed: send fewer or smaller images."
            raise HTTPException(413, sentence, {"connection": "close"})
        return bytes(content)
