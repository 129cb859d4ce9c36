"""A reward that lives on one or several servers: never a failure as a score.

The samples of a call travel in parts of `batch`. Every server has one part at a time, so that the parts a server sees
do not depend on timing. A part that fails is tried again, on whichever server is ready first; one that keeps failing
is halved until the sample is alone that no server can score, which ends the run with a RewardError.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ddpo.media.image import to_uint8
from ddpo.rewards.contract import NamedReward
from ddpo.rewards.remote.breaker import CircuitBreaker
from ddpo.rewards.remote.link import BusyError, FailedError, Link, TooLargeError, UnreachableError
from ddpo.rewards.remote.pictures import to_png
from ddpo.rewards.remote.protocol import TOKEN_VARIABLE, Info, ScoreItem
from ddpo.runtime.errors import RewardError, nearest

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

SCHEMES = ("http://", "https://")
"""How the name of a remote reward begins."""


class RemoteOptions(BaseModel):
    """Options of a remote reward."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    url: Annotated[list[str], Field(min_length=1)]
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
    cooldown: float = Field(default=10.0, ge=0)
    """Seconds for which a server that failed several times in a row is left alone."""

    @field_validator("url", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


def load_remote(options: Mapping[str, Any]) -> NamedReward:
    """Return the reward that the servers of `options` serve, named and labelled as they say.

    Raises:
        RewardError: a malformed option, a server that cannot be reached, or servers of different rewards.
    """
    settings = _parse(options)
    token = settings.token or os.environ.get(TOKEN_VARIABLE)
    links = [
        Link(url, token=token, timeout=settings.timeout, breaker=CircuitBreaker(settings.backoff, settings.cooldown))
        for url in dict.fromkeys(settings.url)
    ]
    infos = [link.greet() for link in links]
    _check_same(links, infos)
    batch = min(settings.batch, *(info.max_items for info in infos))
    function = RemoteReward(links, batch=batch, retries=settings.retries, patience=settings.timeout)
    return NamedReward(f"remote:{infos[0].reward}", function, infos[0].label, media=("image",))


def _parse(options: Mapping[str, Any]) -> RemoteOptions:
    try:
        return RemoteOptions.model_validate(dict(options))
    except ValidationError as error:
        problem = error.errors()[0]
        option, valid = str(problem["loc"][0]), list(RemoteOptions.model_fields)
        if problem["type"] == "extra_forbidden":
            hint = nearest(option, valid)
            raise RewardError(
                f"A remote reward has no option '{option}'.{hint} Its options: {', '.join(valid)}."
            ) from None
        raise RewardError(f"Option '{option}' of a remote reward: {problem['msg']}.") from None


def _check_same(links: Sequence[Link], infos: Sequence[Info]) -> None:
    first = infos[0]
    for link, info in zip(links, infos, strict=True):
        if (info.reward, info.version) != (first.reward, first.version):
            raise RewardError(
                f"The servers differ: {links[0].url} serves '{first.reward}' version {first.version}, {link.url} "
                f"'{info.reward}' version {info.version}; their scores must not be mixed."
            )


class RemoteReward:
    """Scores samples on servers; see the module."""

    def __init__(self, links: Sequence[Link], *, batch: int, retries: int, patience: float) -> None:
        """`patience` is for how many seconds, times the tries, busy servers are waited for."""
        self._links, self._batch, self._retries = list(links), batch, retries
        self._patience = patience * (retries + 1)

    def __call__(
        self, images: Tensor, prompts: list[str], metadata: list[dict[str, Any]], /
    ) -> npt.NDArray[np.float64]:
        """Return the scores `(B,)` of images `(B, 3, H, W)`.

        Raises:
            RewardError: a sample that could not be scored, naming the server, the sample and the cause.
        """
        call = _Call(images.numpy(), prompts, metadata, self._batch)
        for link in self._links:
            worker = _Worker(link, call, retries=self._retries, patience=self._patience)
            # Daemons: a request that hangs must not keep a program alive that was interrupted.
            threading.Thread(target=worker.run, name=f"reward {link.url}", daemon=True).start()
        return call.result()


@dataclass
class _Part:
    """Samples that travel together, and how often they came back without scores."""

    indices: list[int]
    failures: int = 0
    """Times that a server took them and gave no usable scores."""
    unreached: int = 0
    """Times that a server could not be reached."""
    waited: float = 0.0
    """Seconds for which busy servers asked to wait."""


class _Call:
    """One call of the reward, shared by a thread for each server."""

    def __init__(
        self, images: npt.NDArray[np.float32], prompts: list[str], metadata: list[dict[str, Any]], batch: int
    ) -> None:
        self._images, self.prompts, self._metadata = images, prompts, metadata
        self._nonce = uuid.uuid4().hex[:8]  # an answer to another request is not mistaken for this one's
        indices = list(range(len(prompts)))
        self._waiting = deque(_Part(indices[first : first + batch]) for first in range(0, len(indices), batch))
        self._scores: dict[int, float] = {}
        self._problem: BaseException | None = None
        self._changed = threading.Condition()

    def result(self) -> npt.NDArray[np.float64]:
        """Wait for all scores; raise what went wrong instead."""
        with self._changed:
            try:
                self._changed.wait_for(self._over)
            except BaseException as error:  # Ctrl-C: the threads are to stop too
                self._problem = error
                self._changed.notify_all()
                raise
            if self._problem is not None:
                raise self._problem
            return np.array([self._scores[index] for index in range(len(self.prompts))], dtype=np.float64)

    def pause(self, seconds: float) -> bool:
        """Wait so long, or until the call is over; return whether it goes on."""
        with self._changed:
            return not self._changed.wait_for(self._over, seconds) if seconds > 0 else not self._over()

    def take(self) -> _Part | None:
        """Return the next part, when there is one; None when the call is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._over())
            return None if self._over() else self._waiting.popleft()

    def put_back(self, *parts: _Part) -> None:
        """Have the parts tried before all others: a sample that no server can score is found early."""
        with self._changed:
            self._waiting.extendleft(reversed(parts))
            self._changed.notify_all()

    def keep(self, scores: Mapping[str, float]) -> None:
        """Keep the scores by the ids that `items` gave out."""
        with self._changed:
            self._scores |= {int(name.rpartition("-")[2]): value for name, value in scores.items()}
            self._changed.notify_all()

    def has(self, index: int) -> bool:
        """Return whether the sample has its score."""
        return index in self._scores

    def stop(self, problem: BaseException) -> None:
        """End the call; only the first problem counts."""
        with self._changed:
            self._problem = self._problem or problem
            self._changed.notify_all()

    def items(self, indices: Sequence[int]) -> list[ScoreItem]:
        """Return samples as they travel: rounded to 8 bits as for a file.

        Raises:
            RewardError: an image with NaN, or a prompt or metadata that JSON cannot hold.
        """
        return [self._item(index) for index in indices]

    def _item(self, index: int) -> ScoreItem:
        try:
            return ScoreItem(
                id=f"{self._nonce}-{index}",
                image=to_png(to_uint8(self._images[index : index + 1])[0]),
                prompt=self.prompts[index],
                metadata=self._metadata[index],
            )
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(part) for part in problem["loc"][:2])
            raise RewardError(f"{self.name(index)} cannot be sent: {where}: {problem['msg']}.") from None
        except ValueError as error:
            raise RewardError(f"{self.name(index)}: {error}.") from None

    def name(self, index: int) -> str:
        """Return words for a sample."""
        return f"sample {index} (of {len(self.prompts)} in this call), prompt '{self.prompts[index]}'"

    def _over(self) -> bool:
        return self._problem is not None or len(self._scores) == len(self.prompts)


class _Worker:
    """Has one server score parts of a call until it is over."""

    def __init__(self, link: Link, call: _Call, *, retries: int, patience: float) -> None:
        self._link, self._call, self._retries, self._patience = link, call, retries, patience

    def run(self) -> None:
        """Take parts while there are any; whatever goes wrong ends the call, never silently this thread."""
        try:
            while self._call.pause(self._link.breaker.seconds_left()):
                part = self._call.take()
                if part is None:
                    return
                self._attempt(part)
        except BaseException as error:
            self._call.stop(error)

    def _attempt(self, part: _Part) -> None:
        breaker, call = self._link.breaker, self._call
        try:
            scores = self._link.score(call.items(part.indices))
        except BusyError as busy:
            breaker.wait(busy.seconds)
            part.waited += busy.seconds
            if part.waited > self._patience:
                raise self._gave_up(part, busy) from None
            call.put_back(part)
        except TooLargeError as error:
            self._halve(part, error)
        except UnreachableError as error:
            breaker.failed()
            part.unreached += 1
            if part.unreached > self._retries:
                raise self._gave_up(part, error) from None
            call.put_back(part)
        except FailedError as error:
            if error.by_reward:
                breaker.answered_without_scores(part.failures + 1)
            else:
                breaker.failed()
            self._after_failure(part, error)
        else:
            breaker.succeeded()
            call.keep(scores)

    def _after_failure(self, part: _Part, error: FailedError) -> None:
        self._call.keep(error.scores)
        part.indices = [index for index in part.indices if not self._call.has(index)]
        if not part.indices:
            return
        part.failures += 1
        if part.failures > self._retries:
            self._halve(part, error)
        else:
            self._call.put_back(part)

    def _halve(self, part: _Part, error: Exception) -> None:
        """Try each half once: the one without the guilty sample succeeds."""
        if len(part.indices) == 1:
            raise self._gave_up(part, error) from None
        middle = len(part.indices) // 2
        halves = part.indices[:middle], part.indices[middle:]
        self._call.put_back(*(_Part(half, failures=part.failures) for half in halves))

    def _gave_up(self, part: _Part, cause: Exception) -> RewardError:
        """Return the error that names server, sample and cause."""
        first, more = part.indices[0], len(part.indices) - 1
        others = f" (and {more} more)" if more else ""
        text = str(cause).rstrip(".")
        return RewardError(f"{self._link.url} did not score {self._call.name(first)}{others}: {text}.")
