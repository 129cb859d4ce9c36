"""A reward that lives on one or several servers: never a failure as a score.

The samples of a call travel in parts of `batch`. Every server has one part at a time, so that the parts a server sees
do not depend on timing. A part that fails is tried again, on whichever server is ready first; one that keeps failing
is halved until the sample is alone that no server can score, which ends the run with a RewardError.
"""

from __future__ import annotations

import asyncio
import email.utils
import math
import os
import random
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from ddpo.media.image import to_uint8
from ddpo.rewards.contract import Array, NamedReward
from ddpo.rewards.http_client import Answer, NoAnswerError, exchange, in_event_loop, problem_of_address
from ddpo.rewards.options import Options, parse_options
from ddpo.rewards.remote.pictures import to_png
from ddpo.rewards.remote.protocol import (
    PROTOCOL,
    TOKEN_VARIABLE,
    Info,
    Problem,
    ScoreItem,
    ScoreRequest,
    ScoreResponse,
)
from ddpo.runtime.errors import RewardError

if TYPE_CHECKING:
    from torch import Tensor

SCHEMES = ("http://", "https://")
"""How the name of a remote reward begins."""
HANDSHAKE_SECONDS = 10.0
"""A server that does not say what it serves within this time is not there."""
LONGEST_PAUSE = 60.0
"""Seconds for which a server that failed is left alone at most."""
DEFAULT_RETRY_AFTER, SHORTEST_WAIT = 1.0, 0.1
"""Seconds to wait for a busy server that does not say how long, and at least: it must not be asked without end."""

T = TypeVar("T", bound=BaseModel)


class RemoteOptions(Options):
    """Options of a remote reward."""

    url: Annotated[list[str], Field(min_length=1), BeforeValidator(lambda url: [url] if isinstance(url, str) else url)]
    """Servers of the same reward."""
    timeout: float = Field(default=60.0, gt=0)
    """Seconds that the answer to a request may take."""
    retries: int = Field(default=4, ge=0)
    """Tries after the first one, for each part."""
    batch: int = Field(default=32, ge=1)
    """Samples in a request; fewer where a server takes fewer."""
    token: str | None = None
    """Bearer token; null: the environment variable DDPO_REWARD_TOKEN, if it is set."""
    backoff: float = Field(default=0.5, ge=0)
    """Seconds of the first pause after a failure; each further one doubles it."""


def load_remote(options: Mapping[str, Any]) -> NamedReward:
    """Return the reward that the servers of `options` serve, named and labelled as they say.

    Raises RewardError for a malformed option, a server that cannot be reached, or servers of different rewards.
    """
    settings = parse_options(RemoteOptions, "remote", options)
    token = settings.token or os.environ.get(TOKEN_VARIABLE)
    servers = [Server(url, token, settings) for url in dict.fromkeys(settings.url)]

    async def greet() -> list[Info]:
        return [await server.greet() for server in servers]

    infos = in_event_loop(greet)
    first = infos[0]
    for server, info in zip(servers, infos, strict=True):
        if (info.reward, info.version) != (first.reward, first.version):
            raise RewardError(
                f"The servers differ: {servers[0].url} serves '{first.reward}' version {first.version}, {server.url} "
                f"'{info.reward}' version {info.version}; their scores must not be mixed."
            )
    batch = min(settings.batch, *(info.max_items for info in infos))
    return NamedReward(f"remote:{first.reward}", RemoteReward(servers, batch, settings), first.label, media=("image",))


@dataclass
class _Part:
    """Samples that travel together."""

    items: Sequence[ScoreItem]
    tries: int = 0
    """Times that they came back without scores."""
    begun: float = 0.0
    """When they were sent first; 0: they were not."""


class RemoteReward:
    """Scores samples on servers; see the module."""

    def __init__(self, servers: Sequence[Server], batch: int, settings: RemoteOptions) -> None:
        self._servers, self._batch, self._retries = servers, batch, settings.retries
        self._patience = settings.timeout * (settings.retries + 1)

    def __call__(self, images: Tensor, prompts: list[str], metadata: list[dict[str, Any]], /) -> Array:
        """Return the scores `(B,)` of images `(B, 3, H, W)`.

        Raises RewardError for a sample that could not be scored, naming the server, the sample and the cause.
        """
        nonce = uuid.uuid4().hex[:8]  # an answer to another request is not mistaken for this one's
        items: list[ScoreItem] = []
        for prompt, about, pixels in zip(prompts, metadata, to_uint8(images.numpy()), strict=True):
            name = f"{nonce}-{len(items)}-{len(prompts)}"
            try:
                items.append(ScoreItem(id=name, image=to_png(pixels), prompt=prompt, metadata=about))
            except ValidationError as error:
                problem = error.errors()[0]
                where = ".".join(str(part) for part in problem["loc"][:2])
                raise RewardError(f"{_name(name, prompt)} cannot be sent: {where}: {problem['msg']}.") from None
        scores: dict[str, float] = {}
        in_event_loop(lambda: self._score(items, scores))
        return np.array([scores[item.id] for item in items], dtype=np.float64)

    async def _score(self, items: Sequence[ScoreItem], scores: dict[str, float]) -> None:
        """Fill `scores` by the items' ids, or raise the first problem that is one."""
        waiting: asyncio.LifoQueue[_Part] = asyncio.LifoQueue()
        for first in reversed(range(0, len(items), self._batch)):
            waiting.put_nowait(_Part(items[first : first + self._batch]))
        tasks = [asyncio.create_task(self._work(server, scores, waiting)) for server in self._servers]
        tasks.append(asyncio.create_task(waiting.join()))
        done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            task.cancel()
        for task in done:
            task.result()

    async def _work(self, server: Server, scores: dict[str, float], waiting: asyncio.LifoQueue[_Part]) -> None:
        """Have one server score parts; what is left of one comes first again: a guilty sample is found early."""
        while True:
            await server.ready()
            part = await waiting.get()
            part.begun = part.begun or time.monotonic()
            try:
                scores |= await server.score(part.items)
            except Failure as failure:
                scores |= failure.scores
                part.items = [item for item in part.items if item.id not in scores]
                for left in self._left(failure, server, part) if part.items else ():
                    waiting.put_nowait(left)
            waiting.task_done()

    def _left(self, failure: Failure, server: Server, part: _Part) -> list[_Part]:
        """Return what of a part is to be tried again, the first last; raise RewardError when that makes no sense."""
        items = part.items
        if failure.kind != "too large":
            part.tries += failure.kind != "busy"
            server.leave_alone(failure)
            late = time.monotonic() + failure.wait > part.begun + self._patience
            if part.tries <= self._retries and not late:
                return [part]
            part.tries = max(part.tries, self._retries)  # each half is tried once: that without the guilty one succeeds
        if len(items) > 1 and failure.kind not in ("unreached", "busy"):
            middle = len(items) // 2
            return [_Part(half, part.tries) for half in (items[middle:], items[:middle])]
        more = f" (and {len(items) - 1} more)" if len(items) > 1 else ""
        raise RewardError(
            f"{server.url} did not score {_name(items[0].id, items[0].prompt)}{more}: {str(failure).rstrip('.')}."
        )


def _name(name: str, prompt: str) -> str:
    """Return words for a sample by its id, `nonce-index-number`."""
    _, index, number = name.split("-")
    return f"sample {index} (of {number} in this call), prompt '{prompt}'"


class Failure(Exception):  # noqa: N818
    """Why a request brought no scores for all of its samples."""

    def __init__(
        self,
        cause: str,
        kind: Literal["unreached", "busy", "too large", "failed"] = "failed",
        *,
        scores: Mapping[str, float] = {},
        wait: float = 0.0,
    ) -> None:
        """`scores` came with the failure, by id; `wait` are the seconds after which a busy server is to be asked."""
        super().__init__(cause)
        self.kind, self.scores, self.wait = kind, scores, wait


class Server:
    """A reward server: what it serves, the scores of one request or why there are none, and when to ask again."""

    def __init__(self, url: str, token: str | None, settings: RemoteOptions) -> None:
        """Raise RewardError when `url` is no address, or the token cannot stand in a header."""
        if token and not (token.isascii() and token.isprintable()):
            raise RewardError(f"The token for {url} holds more than ASCII's printable characters: choose another.")
        if problem := problem_of_address(url):
            raise RewardError(f"'{url}' is not the address of a reward server: {problem}.")
        self.url, self._token, self._timeout, self._backoff = url, token, settings.timeout, settings.backoff
        self._serves: Info | None = None
        self._failures = 0
        self._ready_at = 0.0

    async def ready(self) -> None:
        """Wait until the server may be asked again."""
        await asyncio.sleep(max(0.0, self._ready_at - time.monotonic()))

    def leave_alone(self, failure: Failure) -> None:
        """Ask no more for a while: as long as a busy server asks for, else twice as long as after the failure before.

        A random factor keeps many clients from returning at once.
        """
        pause = failure.wait
        if failure.kind != "busy":
            factor = random.Random().uniform(0.5, 1.5)  # its own: the run's random numbers stay as they are
            pause = min(LONGEST_PAUSE, self._backoff * 2.0 ** min(10, self._failures) * factor)
            self._failures += 1
        self._ready_at = time.monotonic() + pause

    async def greet(self) -> Info:
        """Return what the server serves; its scores must come from the same from then on.

        Raises RewardError when it cannot be reached, refuses the token, or is no reward server of this protocol.
        """
        try:
            answer = await self._ask("/info", None, min(self._timeout, HANDSHAKE_SECONDS))
        except NoAnswerError as error:
            raise RewardError(
                f"No reward server answers at {self.url}: {error}. Start one with `ddpo reward serve NAME`."
            ) from None
        if answer.status != 200:
            raise self._refusal(answer)
        try:
            self._serves = self._parsed(Info, answer)
        except ValidationError:
            raise RewardError(f"{self.url} is not a reward server: its /info is something else.") from None
        return self._serves

    async def score(self, items: Sequence[ScoreItem]) -> dict[str, float]:
        """Return a score for every item, by id.

        Raises Failure when another try makes sense, alone or elsewhere, RewardError when it does not: refused, or
        another reward than at the start.
        """
        body = ScoreRequest(items=list(items)).model_dump_json().encode()
        try:
            answer = await self._ask("/score", body, self._timeout)
        except NoAnswerError as error:
            raise Failure(str(error), "failed" if error.reached else "unreached") from None
        if answer.status == 429:
            wait = _seconds(answer.retry_after)
            raise Failure(f"the server is busy and asks to wait {wait:g} s", "busy", wait=wait)
        if answer.status == 413:
            raise Failure(_sentence(answer), "too large")
        if answer.status not in (200, 408) and answer.status < 500:
            raise self._refusal(answer)
        scores = self._scores(answer, {item.id for item in items})
        self._failures = 0
        return scores

    def _scores(self, answer: Answer, wanted: set[str]) -> dict[str, float]:
        try:
            response = self._parsed(ScoreResponse, answer)
        except ValidationError as error:
            if answer.status != 200:
                raise Failure(f"status {answer.status}: {_sentence(answer)}") from None
            problem = error.errors()[0]
            where = ".".join(str(part) for part in problem["loc"]) or "body"
            raise Failure(f"an answer that cannot be used: {where}: {problem['msg']}") from None
        serves = self._serves
        if serves and (response.reward, response.version) != (serves.reward, serves.version):
            raise RewardError(
                f"{self.url} now serves '{response.reward}' version {response.version}, at the start it was "
                f"'{serves.reward}' version {serves.version}: their scores must not be mixed."
            )
        scores = {item.id: item.score for item in response.scores}
        if len(scores) != len(response.scores) or not scores.keys() <= wanted:
            raise Failure("an answer with ids twice or that were not asked for")
        if answer.status != 200:
            raise Failure(f"status {answer.status}: {_sentence(answer)}", scores=scores)
        if missing := len(wanted) - len(scores):
            raise Failure(f"an answer without the scores of {missing} of {len(wanted)} samples", scores=scores)
        return scores

    async def _ask(self, path: str, body: bytes | None, seconds: float) -> Answer:
        return await exchange(self.url.rstrip("/") + path, body, token=self._token, seconds=seconds)

    def _parsed(self, kind: type[T], answer: Answer) -> T:
        """Return what an answer holds; raises RewardError for another protocol, ValidationError for no `kind`."""
        try:
            return kind.model_validate_json(answer.body)
        except ValidationError as error:
            problem = error.errors()[0]
            if problem["loc"] == ("protocol",) and isinstance(problem["input"], int):
                raise RewardError(
                    f"{self.url} speaks protocol {problem['input']} of reward servers, this ddpo {PROTOCOL}: install "
                    "the same version of ddpo on both."
                ) from None
            raise

    def _refusal(self, answer: Answer) -> RewardError:
        if answer.status in (401, 403):
            return RewardError(
                f"{self.url} refuses the token: set the option `token`, or DDPO_REWARD_TOKEN, to the server's."
            )
        return RewardError(f"{self.url} refuses with status {answer.status}: {_sentence(answer)}")


def _sentence(answer: Answer) -> str:
    """Return what the server says about a refusal, shortened."""
    try:
        return Problem.model_validate_json(answer.body).error[:500]
    except ValidationError:
        return "no explanation."


def _seconds(retry_after: str) -> float:
    """Return the seconds of the header Retry-After, which holds a number or a date (RFC 9110, 10.2.3)."""
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
        except (ValueError, TypeError):
            seconds = DEFAULT_RETRY_AFTER
    return max(SHORTEST_WAIT, seconds) if math.isfinite(seconds) else DEFAULT_RETRY_AFTER
