"""One HTTP request with one deadline for all of it, on the standard library alone."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

LARGEST_ANSWER = 16_000_000
"""Bytes of an answer that are read at most: 100 000 scores, or what a broken server sends."""


class NotReachedError(Exception):
    """No connection: the request was never sent."""


class NoAnswerError(Exception):
    """A connection, but no whole answer: too slow, cut off, or not HTTP."""


@dataclass(frozen=True)
class Address:
    """Where a server is."""

    secure: bool
    host: str
    port: int | None
    path: str

    @classmethod
    def parse(cls, url: str) -> Address:
        """Return the address `http://host:port` or `https://host/path`.

        Raises:
            ValueError: anything else; says what is wrong.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("write http://host:port or https://host")
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError("an address has no password, query or fragment; a token is an option of its own")
        return cls(parts.scheme == "https", parts.hostname, parts.port, parts.path.rstrip("/"))

    def connection(self, timeout: float) -> http.client.HTTPConnection:
        """Return a connection that is not yet made."""
        kind = http.client.HTTPSConnection if self.secure else http.client.HTTPConnection
        return kind(self.host, self.port, timeout=timeout)


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


def request(
    address: Address,
    method: str,
    path: str,
    *,
    body: bytes | None = None,
    token: str | None = None,
    timeout: float,
) -> Answer:
    """Return the whole answer to a request; connecting takes at most `timeout` seconds, and all the rest as well.

    A socket's own timeout starts again with every byte: a server that sends one now and then would never meet it.

    Raises:
        NotReachedError: no connection.
        NoAnswerError: a connection but no whole answer.
    """
    connection = address.connection(timeout)
    try:
        try:
            connection.connect()
        except (OSError, UnicodeError) as error:
            raise NotReachedError(_reason(error)) from None
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if body is not None:
            headers["Content-Type"] = "application/json"
        with _cut_off_after(timeout, connection.sock) as late:
            try:
                return _exchange(connection, method, address.path + path, body, headers)
            except (OSError, http.client.HTTPException, ValueError) as error:
                slow = late.is_set() or isinstance(error, TimeoutError)
                raise NoAnswerError(f"no whole answer within {timeout:g} s" if slow else _reason(error)) from None
    finally:
        connection.close()


def _exchange(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None, headers: dict[str, str]
) -> Answer:
    # A server that refuses a body may answer before it has read all of it.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.request(method, path, body, headers)
    response = connection.getresponse()
    content = response.read(LARGEST_ANSWER + 1)
    if len(content) > LARGEST_ANSWER:
        raise ValueError(f"an answer of more than {LARGEST_ANSWER // 1_000_000} MB")
    expected = response.headers.get("Content-Length", "")
    if expected.isdigit() and len(content) < int(expected):
        raise ConnectionError("the answer was cut off")
    return Answer(response.status, {name.lower(): value for name, value in response.headers.items()}, content)


@contextlib.contextmanager
def _cut_off_after(seconds: float, connected: socket.socket) -> Iterator[threading.Event]:
    """Shut the socket down after some seconds, which ends whatever waits for it; the event says that it was done."""
    late = threading.Event()

    def cut_off() -> None:
        late.set()
        with contextlib.suppress(OSError):
            connected.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut_off)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it does not answer"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text[:1].lower() + text[1:] if text else type(error).__name__
