"""The answers of a reward server. Imports FastAPI, of the extra `serve`."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import inspect
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ddpo.rewards import NamedReward, reward_entries
from ddpo.rewards.remote.pictures import PngError, open_png, pixels_of
from ddpo.rewards.remote.protocol import (
    PROTOCOL,
    Info,
    ItemFailure,
    ItemScore,
    Problem,
    ScoreItem,
    ScoreRequest,
    ScoreResponse,
)
from ddpo.rewards.server import Limits
from ddpo.rewards.server.batching import Batcher, Sample
from ddpo.rewards.server.gate import Gate
from ddpo.runtime.errors import RewardError
from ddpo.runtime.version import __version__

_REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "The token is missing or wrong"},
    413: {"model": Problem, "description": "More than the limits allow"},
    422: {"model": Problem, "description": "Not a request as described here"},
    429: {"model": Problem, "description": "Too much waits already: come back later"},
    500: {"model": ScoreResponse, "description": "The reward failed for some of the items"},
}


def create_app(reward: NamedReward, limits: Limits, token: str | None = None) -> FastAPI:
    """Return the server of a reward as an ASGI application; its scoring thread is running.

    No answer holds a traceback: whatever goes wrong is a status and one sentence.
    """
    info = Info(
        protocol=PROTOCOL,
        reward=reward.name,
        label=reward.label,
        version=version_of(reward),
        package_version=__version__,
        max_items=limits.max_batch,
    )
    app = FastAPI(
        title=f"ddpo reward server: {reward.name}",
        description=f"{reward.label}; higher is better.",
        version=info.version,
        redoc_url=None,
    )
    app.router.route_class = Gate
    app.state.token, app.state.limits = token, limits
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(Exception, _broken)
    batcher = Batcher(reward, limits)
    # Few threads: however many requests come, only so many pictures are unpacked at once.
    unpacking = ThreadPoolExecutor(2, "unpack")

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Say that the server is there."""
        return {"status": "ok"}

    @app.get("/info", responses={401: _REFUSALS[401]})
    async def about() -> Info:
        """Say what the server serves."""
        return info

    @app.post("/score", response_model=ScoreResponse, responses=_REFUSALS)
    async def score_items(request: ScoreRequest) -> JSONResponse:
        """Score samples; the scores come back under the items' ids."""
        samples = await asyncio.get_running_loop().run_in_executor(unpacking, unpacked, request.items, limits)
        if not batcher.submit(samples):
            raise HTTPException(429, "Too many samples wait already: come back after a second.", {"Retry-After": "1"})
        outcomes = await asyncio.gather(*(asyncio.wrap_future(sample.outcome) for sample in samples))
        answered = list(zip(request.items, outcomes, strict=True))
        failed = [ItemFailure(id=item.id, error=str(why)) for item, why in answered if isinstance(why, RewardError)]
        response = ScoreResponse(
            protocol=PROTOCOL,
            reward=info.reward,
            version=info.version,
            scores=[ItemScore(id=item.id, score=x) for item, x in answered if not isinstance(x, RewardError)],
            failed=failed,
            error=failed[0].error if failed else None,
        )
        return JSONResponse(response.model_dump(exclude_defaults=True), 500 if failed else 200)

    return app


def unpacked(items: Sequence[ScoreItem], limits: Limits) -> list[Sample]:
    """Return the samples of a request's items.

    Raises HTTPException for too many items, for two of the same id and, naming the item, for an image that is none,
    is too large, or takes too much with the others.
    """
    if len(items) > limits.max_batch:
        raise HTTPException(413, f"The request holds {len(items)} items, more than the {limits.max_batch} allowed.")
    if len({item.id for item in items}) < len(items):
        raise HTTPException(422, "Two items have the same id: ids must be different within a request.")
    samples, pixels = list[Sample](), 0
    for item in items:
        try:
            picture = open_png(item.image, limits.max_pixels)
            pixels += picture.width * picture.height
            if pixels > limits.waiting_pixels:
                raise HTTPException(
                    413, f"The images have more pixels together than the {limits.waiting_pixels} allowed: send fewer."
                )
            samples.append(Sample(pixels_of(picture), item.prompt, dict(item.metadata)))
        except PngError as error:
            raise HTTPException(422, f"Item '{item.id}': {error}.") from None
    return samples


def version_of(reward: NamedReward) -> str:
    """Return the version of a reward: that of the package, with a hash of its options and, for a user's, its file."""
    function: Any = reward.function
    options: dict[str, Any] = {}
    if isinstance(function, functools.partial):
        function, options = function.func, function.keywords
    source = b"" if reward.name in reward_entries() else _source(function)
    if not options and not source:
        return __version__
    described = json.dumps(options, sort_keys=True, default=repr).encode() + source
    return f"{__version__}+{hashlib.sha256(described).hexdigest()[:8]}"


def _source(function: Any) -> bytes:
    """Return the file that a function stands in, empty when there is none."""
    try:
        file = inspect.getsourcefile(inspect.unwrap(function))
    except (TypeError, ValueError):
        return b""
    return Path(file).read_bytes() if file and Path(file).is_file() else b""


async def _malformed(_: Request, error: Exception) -> JSONResponse:
    """Name the first field that is not as described, without repeating what was sent."""
    assert isinstance(error, RequestValidationError)
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"] if part != "body")
    return _problem(422, f"The request is not as described at /docs: {where or 'body'}: {problem['msg']}.")


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return _problem(error.status_code, str(error.detail), dict(error.headers or {}))


async def _broken(_: Request, error: Exception) -> JSONResponse:
    return _problem(500, f"The server failed ({type(error).__name__}); its log says more.")


def _problem(status: int, sentence: str, headers: dict[str, str] | None = None) -> JSONResponse:
    # What was sent may hold half of a surrogate pair, which no UTF-8 can.
    readable = sentence.encode("utf-8", "replace").decode()
    return JSONResponse(Problem(error=readable).model_dump(), status, headers)
