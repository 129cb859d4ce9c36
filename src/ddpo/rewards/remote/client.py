"""A reward that lives on one or several servers: never a failure as a score.

The samples of a call travel in parts of `batch`. Every server has one part at a time, so that the parts a server sees
do not depend on timing. A part that fails is tried again, on whichever server is ready first; one that keeps failing
is halved until the sample is alone that no server can score, which ends the run with a RewardError.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field, ValidationError, field_validator

from ddpo.media.image import to_uint8
from ddpo.rewards.contract import NamedReward
from ddpo.rewards.options import Options, parse_options
from ddpo.rewards.remote.link import Failure, Link
from ddpo.rewards.remote.pictures import to_png
from ddpo.rewards.remote.protocol import TOKEN_VARIABLE, Info, ScoreItem
from ddpo.runtime.errors import RewardError

if TYPE_CHECKING:
    import numpy.typing as npt
    from anyio.from_thread import BlockingPortal
    from torch import Tensor

SCHEMES = ("http://", "https://")
"""How the name of a remote reward begins."""


class RemoteOptions(Options):
    """Options of a remote reward."""

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

    @field_validator("url", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


def load_remote(options: Mapping[str, Any]) -> NamedReward:
    """Return the reward that the servers of `options` serve, named and labelled as they say.

    Raises:
        RewardError: a malformed option, a server that cannot be reached, or servers of different rewards.
    """
    settings = parse_options(RemoteOptions, "remote", options)
    token = settings.token or os.environ.get(TOKEN_VARIABLE)
    urls = dict.fromkeys(settings.url)
    links = [Link(url, token=token, timeout=settings.timeout, backoff=settings.backoff) for url in urls]
    with _event_loop() as portal:
        infos = [portal.call(link.greet) for link in links]
    _check_same(links, infos)
    batch = min(settings.batch, *(info.max_items for info in infos))
    function = RemoteReward(links, batch=batch, retries=settings.retries, timeout=settings.timeout)
    return NamedReward(f"remote:{infos[0].reward}", function, infos[0].label, media=("image",))


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

    def __init__(self, links: Sequence[Link], *, batch: int, retries: int, timeout: float) -> None:
        """`timeout` are the seconds that a try may take; after those of all tries none is begun."""
        self._links, self._batch, self._retries = list(links), batch, retries
        self._patience = timeout * (retries + 1)

    def __call__(
        self, images: Tensor, prompts: list[str], metadata: list[dict[str, Any]], /
    ) -> npt.NDArray[np.float64]:
        """Return the scores `(B,)` of images `(B, 3, H, W)`.

        Raises:
            RewardError: a sample that could not be scored, naming the server, the sample and the cause.
        """
        call = _Call(images.numpy(), prompts, metadata)
        with _event_loop() as portal:
            portal.call(self._score, call)
        return np.array([call.scores[index] for index in range(len(prompts))], dtype=np.float64)

    async def _score(self, call: _Call) -> None:
        """Fill the scores of a call, or raise the first problem that is one."""
        waiting: asyncio.LifoQueue[_Part] = asyncio.LifoQueue()
        indices = range(len(call.prompts))
        for first in reversed(indices[:: self._batch]):
            waiting.put_nowait(_Part(list(indices[first : first + self._batch])))
        tasks = [asyncio.create_task(self._work(link, call, waiting)) for link in self._links]
        tasks.append(asyncio.create_task(waiting.join()))
        done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            task.cancel()
        for problem in [task.exception() for task in done]:
            if problem is not None:
                raise problem

    async def _work(self, link: Link, call: _Call, waiting: asyncio.LifoQueue[_Part]) -> None:
        """Have one server score parts; what is left of one comes first again: a guilty sample is found early."""
        while True:
            await link.ready()
            part = await waiting.get()
            for left in reversed(await self._attempt(link, call, part)):
                waiting.put_nowait(left)
            waiting.task_done()

    async def _attempt(self, link: Link, call: _Call, part: _Part) -> list[_Part]:
        """Have a server score a part once; return what of it is to be tried again, here or elsewhere."""
        part.begun = part.begun or time.monotonic()
        try:
            call.keep(await link.score([call.item(index) for index in part.indices]))
        except Failure as failure:
            return self._left(failure, link, call, part)
        return []

    def _left(self, failure: Failure, link: Link, call: _Call, part: _Part) -> list[_Part]:
        """Return what of a part is to be tried again; raise RewardError when that makes no sense any more."""
        call.keep(failure.scores)
        part.indices = [index for index in part.indices if index not in call.scores]
        if not part.indices:
            return []
        if failure.kind != "too large":
            part.tries += failure.kind != "busy"
            link.leave_alone(failure, part.tries)
            late = time.monotonic() + failure.wait > part.begun + self._patience
            if part.tries <= self._retries and not late:
                return [part]
            part.tries = max(part.tries, self._retries)  # each half is tried once: that without the guilty one succeeds
        if len(part.indices) > 1 and failure.kind not in ("unreached", "busy"):
            middle = len(part.indices) // 2
            return [_Part(half, part.tries) for half in (part.indices[:middle], part.indices[middle:])]
        first, more = part.indices[0], len(part.indices) - 1
        others = f" (and {more} more)" if more else ""
        raise RewardError(f"{link.url} did not score {call.name(first)}{others}: {str(failure).rstrip('.')}.")


@dataclass
class _Part:
    """Samples that travel together."""

    indices: list[int]
    tries: int = 0
    """Times that they came back without scores."""
    begun: float = 0.0
    """When they were sent first; 0: they were not."""


class _Call:
    """The samples of one call and the scores that have come."""

    def __init__(self, images: npt.NDArray[np.float32], prompts: list[str], metadata: list[dict[str, Any]]) -> None:
        self._images, self.prompts, self._metadata = images, prompts, metadata
        self._nonce = uuid.uuid4().hex[:8]  # an answer to another request is not mistaken for this one's
        self.scores: dict[int, float] = {}

    def keep(self, scores: Mapping[str, float]) -> None:
        """Keep the scores by the ids that `item` gave out."""
        self.scores |= {int(name.rpartition("-")[2]): value for name, value in scores.items()}

    def item(self, index: int) -> ScoreItem:
        """Return a sample as it travels: rounded to 8 bits as for a file.

        Raises:
            RewardError: an image with NaN, or a prompt or metadata that JSON cannot hold.
        """
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


def _event_loop() -> AbstractContextManager[BlockingPortal]:
    """Return an event loop in a thread of its own, since that of the caller may have one, as in a notebook.

    On the way out, also by Ctrl-C, what still runs in it is cancelled.
    """
    from anyio.from_thread import start_blocking_portal

    return start_blocking_portal()
