"""One reward server as a client sees it: what it serves, and the scores of one request or why there are none."""

from __future__ import annotations

import asyncio
import email.utils
import json
import math
import random
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import ValidationError

from ddpo.rewards.remote.protocol import PROTOCOL, Info, Problem, ScoreItem, ScoreRequest, ScoreResponse
from ddpo.runtime.errors import RewardError

HANDSHAKE_SECONDS = 10.0
"""A server that does not say what it serves within this time is not there."""
LARGEST_ANSWER = 16_000_000
"""Bytes of an answer that are read at most: 100 000 scores, or what a broken server sends."""
LONGEST_PAUSE = 60.0
"""Seconds for which a server that failed is left alone at most."""
DEFAULT_RETRY_AFTER, SHORTEST_WAIT = 1.0, 0.1
"""Seconds to wait for a busy server that does not say how long, and at least: it must not be asked without end."""


Kind = Literal["unreached", "busy", "too large", "reward failed", "failed"]
"""What failed; `reward failed`: the server itself is well; `failed`: one of the samples may be why."""


class Failure(Exception):  # noqa: N818
    """Why a request brought no scores for all of its samples."""

    def __init__(
        self, cause: str, kind: Kind = "failed", *, scores: Mapping[str, float] = {}, wait: float = 0.0
    ) -> None:
        """`scores` came with the failure, by id; `wait` are the seconds after which a busy server is to be asked."""
        super().__init__(cause)
        self.kind, self.scores, self.wait = kind, scores, wait


@dataclass(frozen=True)
class _Answer:
    """What came back."""

    status: int
    body: bytes
    retry_after: str

    @property
    def payload(self) -> Any:
        """What the body holds; None when it is not JSON."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    @property
    def sentence(self) -> str:
        """What the server says about a refusal, shortened."""
        try:
            return Problem.model_validate(self.payload).error[:500]
        except ValidationError:
            return "no explanation."


class Link:
    """A server, and when to ask it again."""

    def __init__(self, url: str, *, token: str | None, timeout: float, backoff: float) -> None:
        """Raise RewardError when `url` is no address, or the token cannot stand in a header."""
        if token and not (token.isascii() and token.isprintable()):
            raise RewardError(f"The token for {url} holds more than ASCII's printable characters: choose another.")
        self.url, self._token, self._timeout, self._backoff = url, token, timeout, backoff
        self._base = _checked(url)
        # Without TLS no context is needed, whose making takes a tenth of a second.
        self._verify = ssl.create_default_context() if self._base.startswith("https") else False
        self._serves: Info | None = None
        self._failures = 0
        self._ready_at = 0.0

    async def ready(self) -> None:
        """Wait until the server may be asked again."""
        await asyncio.sleep(max(0.0, self._ready_at - time.monotonic()))

    def leave_alone(self, failure: Failure, tries: int) -> None:
        """Ask no more for a while: as long as a busy server asks for, else twice as long as after the failure before.

        Where only the reward failed, the `tries` of these samples count, else the server's failures in a row. A random
        factor keeps many clients from returning at once.
        """
        pause = failure.wait
        if failure.kind != "busy":
            self._failures = 0 if failure.kind == "reward failed" else self._failures + 1
            times = min(10, (self._failures or tries) - 1)
            factor = random.Random().uniform(0.5, 1.5)  # its own: the run's random numbers stay as they are
            pause = min(LONGEST_PAUSE, self._backoff * 2.0**times * factor)
        self._ready_at = time.monotonic() + pause

    async def greet(self) -> Info:
        """Return what the server serves; its scores must come from the same from then on.

        Raises:
            RewardError: it cannot be reached, refuses the token, or is no reward server of this protocol.
        """
        try:
            answer = await self._request("GET", "/info", None, min(self._timeout, HANDSHAKE_SECONDS))
        except Failure as error:
            raise RewardError(
                f"No reward server answers at {self.url}: {error}. Start one with `ddpo reward serve NAME`."
            ) from None
        if answer.status != 200:
            raise self._refusal(answer)
        self._check_protocol(answer.payload)
        try:
            self._serves = Info.model_validate(answer.payload)
        except ValidationError:
            raise RewardError(f"{self.url} is not a reward server: its /info is something else.") from None
        return self._serves

    async def score(self, items: Sequence[ScoreItem]) -> dict[str, float]:
        """Return a score for every item, by id.

        Raises:
            Failure: worth another try, alone or elsewhere.
            RewardError: not worth one: refused, or another reward than at the start.
        """
        body = ScoreRequest(items=list(items)).model_dump_json().encode()
        answer = await self._request("POST", "/score", body, self._timeout)
        if answer.status == 429:
            wait = _seconds(answer.retry_after)
            raise Failure(f"the server is busy and asks to wait {wait:g} s", "busy", wait=wait)
        if answer.status == 413:
            raise Failure(answer.sentence, "too large")
        if answer.status != 200 and answer.status < 500 and answer.status != 408:
            raise self._refusal(answer)
        scores = self._scores(answer, {item.id for item in items})
        self._failures = 0
        return scores

    def _scores(self, answer: _Answer, wanted: set[str]) -> dict[str, float]:
        payload = answer.payload
        if answer.status != 200 and not (isinstance(payload, dict) and "scores" in payload):
            raise Failure(f"status {answer.status}: {answer.sentence}")
        if not isinstance(payload, dict):
            raise Failure("an answer that cannot be used: it is no JSON object")
        self._check_protocol(payload)
        try:
            response = ScoreResponse.model_validate(payload)
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(part) for part in problem["loc"])
            raise Failure(f"an answer that cannot be used: {where}: {problem['msg']}") from None
        self._check_identity(response)
        scores = {item.id: item.score for item in response.scores}
        if len(scores) != len(response.scores) or not scores.keys() <= wanted:
            raise Failure("an answer with ids twice or that were not asked for")
        if answer.status != 200:
            cause = f"status {answer.status}: {response.error or answer.sentence}"
            raise Failure(cause, "reward failed" if response.failed else "failed", scores=scores)
        if missing := len(wanted) - len(scores):
            raise Failure(f"an answer without the scores of {missing} of {len(wanted)} samples", scores=scores)
        return scores

    async def _request(self, method: str, path: str, body: bytes | None, seconds: float) -> _Answer:
        """Return the whole answer, which may take `seconds` from the connection on, half of them for connecting.

        Raises Failure when there is none. Neither a proxy nor another address that the server names is ever asked.
        """
        import httpx2

        headers = {"Accept-Encoding": "identity", "Connection": "close", "Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        limits = httpx2.Timeout(None, connect=seconds / 2)
        try:
            async with (
                asyncio.timeout(seconds),
                httpx2.AsyncClient(timeout=limits, verify=self._verify, trust_env=False) as client,
                client.stream(method, self._base + path, content=body, headers=headers) as response,
            ):
                content = await _read(response)
                return _Answer(response.status_code, content, response.headers.get("retry-after", ""))
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise Failure(f"no connection: {_reason(error)}", "unreached") from None
        except TimeoutError:
            raise Failure(f"no whole answer within {seconds:g} s") from None
        except httpx2.HTTPError:
            raise Failure("the answer was cut off, or it is no HTTP") from None

    def _refusal(self, answer: _Answer) -> RewardError:
        if answer.status in (401, 403):
            return RewardError(
                f"{self.url} refuses the token: set the option `token`, or DDPO_REWARD_TOKEN, to the server's."
            )
        return RewardError(f"{self.url} refuses with status {answer.status}: {answer.sentence}")

    def _check_protocol(self, payload: Any) -> None:
        spoken = payload.get("protocol", PROTOCOL) if isinstance(payload, dict) else PROTOCOL
        if spoken != PROTOCOL:
            raise RewardError(
                f"{self.url} speaks protocol {spoken} of reward servers, this ddpo {PROTOCOL}: install the same "
                "version of ddpo on both."
            )

    def _check_identity(self, response: ScoreResponse) -> None:
        serves = self._serves
        if serves and (response.reward, response.version) != (serves.reward, serves.version):
            raise RewardError(
                f"{self.url} now serves '{response.reward}' version {response.version}, at the start it was "
                f"'{serves.reward}' version {serves.version}: their scores must not be mixed."
            )


def _checked(url: str) -> str:
    """Return an address without the slash at its end; raises RewardError when it is none."""
    problem = ""
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0 or not url.isprintable():
            problem = "write http://host:port or https://host"
        elif parts.username is not None or parts.query or parts.fragment:
            problem = "an address has no password, query or fragment; a token is an option of its own"
    except ValueError as error:
        problem = str(error)
    if problem:
        raise RewardError(f"'{url}' is not the address of a reward server: {problem}.")
    return url.rstrip("/")


async def _read(response: Any) -> bytes:
    content = bytearray()
    async for part in response.aiter_raw():
        content += part
        if len(content) > LARGEST_ANSWER:
            raise Failure(f"an answer of more than {LARGEST_ANSWER // 1_000_000} MB")
    return bytes(content)


def _reason(error: BaseException) -> str:
    """Return the innermost reason why there is no connection: the library's own words hide it."""
    reason = "it does not answer"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionRefusedError):
            return "connection refused"
        if isinstance(cause, OSError) and cause.strerror:
            reason = cause.strerror
        cause = cause.__cause__ or cause.__context__
    return reason[:1].lower() + reason[1:]


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
