"""Reward servers for tests: the real one in a thread, and one that answers what a script says."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import uvicorn
from PIL import Image

from ddpo.rewards import load_reward
from ddpo.rewards.remote.protocol import PROTOCOL
from ddpo.rewards.server import Limits
from ddpo.rewards.server.application import create_app


@contextlib.contextmanager
def real_server(reward: Any, *, token: str | None = None, **limits: Any) -> Iterator[str]:
    """Serve a reward on a free port; yields its address."""
    app = create_app(load_reward(reward), Limits(**limits), token)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


def call(url: str, payload: Any = None, *, token: str | None = None) -> tuple[int, Any]:
    """Return status and JSON of a request; `payload` bytes are sent as they are."""
    body = payload if payload is None or isinstance(payload, bytes) else json.dumps(payload).encode()
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def png(pixels: Any = None, mode: str = "RGB", size: tuple[int, int] = (8, 8)) -> str:
    """Return a PNG in base64."""
    buffer = io.BytesIO()
    (Image.new(mode, size) if pixels is None else Image.fromarray(pixels)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def item(name: str = "a", image: str | None = None, **more: Any) -> dict[str, Any]:
    return {"id": name, "image": png() if image is None else image, "prompt": "a cat"} | more


INFO = {
    "protocol": PROTOCOL, "reward": "mean", "label": "mean level", "version": "1", "package_version": "1",
    "max_items": 64,
}  # fmt: skip
Act = Callable[["Handler", dict[str, Any]], None]
"""Answers a request to score."""


def mean_levels(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Score the items of a request by the mean of their pixels."""
    pictures = [Image.open(io.BytesIO(base64.b64decode(entry["image"]))) for entry in body["items"]]
    return [
        {"id": entry["id"], "score": float(np.asarray(picture).mean())}
        for entry, picture in zip(body["items"], pictures, strict=True)
    ]


class Handler(BaseHTTPRequestHandler):
    """Answers /info, and /score as the server's script says."""

    server: ScriptedServer

    def do_GET(self) -> None:
        self.answer(200, self.server.info)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            act = self.server.script.pop(0) if self.server.script else self.server.otherwise
            self.server.requests.append([entry["id"] for entry in body["items"]])
            self.server.times.append(time.monotonic())
        with contextlib.suppress(ConnectionError):
            act(self, body)

    def answer(self, status: int, payload: Any, **headers: str) -> None:
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def scores(self, scores: Any, **changes: Any) -> None:
        identity = {key: INFO[key] for key in ("protocol", "reward", "version")}
        self.answer(200, identity | {"scores": scores} | changes)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def well(handler: Handler, body: dict[str, Any]) -> None:
    """Answer as a good server does."""
    handler.scores(mean_levels(body))


class ScriptedServer(ThreadingHTTPServer):
    """Does what `script` says, request by request, and then `otherwise`."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, script: list[Act] | None = None, otherwise: Act = well, port: int = 0, **info: Any) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.script, self.otherwise, self.info = list(script or []), otherwise, INFO | info
        self.requests: list[list[str]] = []
        self.times: list[float] = []
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def stop(self) -> None:
        self.shutdown()
        self.server_close()

    def __exit__(self, *_: object) -> None:
        self.stop()
