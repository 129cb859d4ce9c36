"""One reward server as a client sees it: what it serves, and the scores of one request or why there are none."""

from __future__ import annotations

import email.utils
import json
import math
import time
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from ddpo.rewards.remote.breaker import CircuitBreaker
from ddpo.rewards.remote.exchange import Address, Answer, NoAnswerError, NotReachedError, request
from ddpo.rewards.remote.protocol import PROTOCOL, Info, Problem, ScoreItem, ScoreRequest, ScoreResponse
from ddpo.runtime.errors import RewardError

HANDSHAKE_SECONDS = 10.0
"""A server that does not say what it serves within this time is not there."""
SHORTEST_WAIT = 0.1
"""Seconds, also when a busy server asks for none: it must not be asked without end."""
DEFAULT_RETRY_AFTER = 1.0
"""Seconds to wait for a busy server that does not say how long."""


class UnreachableError(Exception):
    """No connection: says nothing about the samples."""


class FailedError(Exception):
    """The server took the samples and gave no usable scores: one of them may be why."""

    def __init__(self, cause: str, scores: dict[str, float] | None = None, *, by_reward: bool = False) -> None:
        """`scores` are those of other samples that came with the failure, by id; `by_reward`: the server is well."""
        super().__init__(cause)
        self.scores, self.by_reward = scores or {}, by_reward


class BusyError(Exception):
    """The server asks to come back later."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the server is busy and asks to wait {seconds:g} s")
        self.seconds = seconds


class TooLargeError(Exception):
    """The server takes less at once."""


class Link:
    """A server with its circuit breaker."""

    def __init__(self, url: str, *, token: str | None, timeout: float, breaker: CircuitBreaker) -> None:
        """Raise RewardError when `url` is no address."""
        try:
            self._address = Address.parse(url)
        except ValueError as error:
            raise RewardError(f"'{url}' is not the address of a reward server: {error}.") from None
        self.url, self.breaker = url, breaker
        self._token, self._timeout = token, timeout
        self._serves: Info | None = None

    def greet(self) -> Info:
        """Return what the server serves; its scores must come from the same from then on.

        Raises:
            RewardError: it cannot be reached, refuses the token, or is no reward server of this protocol.
        """
        try:
            answer = self._request("GET", "/info", None, min(self._timeout, HANDSHAKE_SECONDS))
        except (NotReachedError, NoAnswerError) as error:
            raise RewardError(
                f"No reward server answers at {self.url}: {error}. Start one with `ddpo reward serve NAME`."
            ) from None
        if answer.status != 200:
            raise self._refusal(answer)
        payload = _json(answer)
        self._check_protocol(payload)
        try:
            self._serves = Info.model_validate(payload)
        except ValidationError:
            raise RewardError(f"{self.url} is not a reward server: its /info is something else.") from None
        return self._serves

    def score(self, items: Sequence[ScoreItem]) -> dict[str, float]:
        """Return a score for every item, by id.

        Raises:
            UnreachableError, FailedError, BusyError, TooLargeError: worth another try, alone or elsewhere.
            RewardError: not worth one: refused, or another reward than at the start.
        """
        body = ScoreRequest(items=list(items)).model_dump_json().encode()
        try:
            answer = self._request("POST", "/score", body, self._timeout)
        except NotReachedError as error:
            raise UnreachableError(f"no connection: {error}") from None
        except NoAnswerError as error:
            raise FailedError(str(error)) from None
        if answer.status == 429:
            raise BusyError(_retry_after(answer))
        if answer.status == 413:
            raise TooLargeError(_sentence(answer))
        if answer.status != 200 and answer.status < 500 and answer.status != 408:
            raise self._refusal(answer)
        return self._scores(answer, {item.id for item in items})

    def _scores(self, answer: Answer, wanted: set[str]) -> dict[str, float]:
        payload = _json(answer)
        if answer.status != 200 and not (isinstance(payload, dict) and "scores" in payload):
            raise FailedError(f"status {answer.status}: {_sentence(answer)}")
        if not isinstance(payload, dict):
            raise FailedError("an answer that cannot be used: it is no JSON object")
        self._check_protocol(payload)
        try:
            response = ScoreResponse.model_validate(payload)
        except ValidationError as error:
            raise FailedError(f"an answer that cannot be used: {_first_problem(error)}") from None
        self._check_identity(response)
        scores = {item.id: item.score for item in response.scores}
        if len(scores) != len(response.scores) or not scores.keys() <= wanted:
            raise FailedError("an answer with ids twice or that were not asked for")
        if answer.status != 200:
            cause = f"status {answer.status}: {response.error or _sentence(answer)}"
            raise FailedError(cause, scores, by_reward=bool(response.failed))
        if missing := len(wanted) - len(scores):
            raise FailedError(f"an answer without the scores of {missing} of {len(wanted)} samples", scores)
        return scores

    def _request(self, method: str, path: str, body: bytes | None, timeout: float) -> Answer:
        return request(self._address, method, path, body=body, token=self._token, timeout=timeout)

    def _refusal(self, answer: Answer) -> RewardError:
        if answer.status in (401, 403):
            return RewardError(
                f"{self.url} refuses the token: set the option `token`, or DDPO_REWARD_TOKEN, to the server's."
            )
        return RewardError(f"{self.url} refuses with status {answer.status}: {_sentence(answer)}")

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


def _json(answer: Answer) -> Any:
    """Return what the body holds; None when it is not JSON."""
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError):
        return None


def _sentence(answer: Answer) -> str:
    """Return what the server says about a refusal, shortened."""
    try:
        return Problem.model_validate(_json(answer)).error[:500]
    except ValidationError:
        return "no explanation."


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else problem["msg"]


def _retry_after(answer: Answer) -> float:
    """Return the seconds of the header Retry-After, which holds a number or a date (RFC 9110, 10.2.3)."""
    text = answer.headers.get("retry-after", "")
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, TypeError):
            seconds = DEFAULT_RETRY_AFTER
    return max(SHORTEST_WAIT, seconds) if math.isfinite(seconds) else DEFAULT_RETRY_AFTER
